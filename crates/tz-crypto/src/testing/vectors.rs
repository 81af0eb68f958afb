//! The published vectors of the sealed profile: the same bytes from every run. What is in `fixtures/sealed` never
//! changes; a new case gets a new name.

use tz_format::{Dtype, Element, Extension, Front, Limits, TensorPath, TensorSpec, testing};

use super::{decode_front, seal_file, seeded_sealer};
use crate::entropy::Seeded;
use crate::front::{self, SealedFront};
use crate::frozen::KEY_LEN;
use crate::journal::Journal;
use crate::slots::Slot;
use crate::{CryptoError, KdfLimits, KdfPreset, Key, Passphrase, SealSecret, Secret};

/// The passphrase of every vector that has one.
pub const PASSPHRASE: &str = "pässwörd 日本";

/// What a reader makes of a vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// Every tensor opens.
    Opens,
    /// The file is refused as a whole: the metadata MAC does not match.
    FrontAltered,
    /// Some tensor does not open.
    Open,
    /// The file is refused as a whole: it is longer than it was sealed, and no journal follows it.
    FileLength,
}

impl Expect {
    /// Its name in the vectors' manifest.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Opens => "opens",
            Self::FrontAltered => "front altered",
            Self::Open => "open fails",
            Self::FileLength => "wrong file length",
        }
    }
}

/// One published file.
#[derive(Debug, Clone)]
pub struct Vector {
    /// File name without its ending.
    pub name: &'static str,
    /// What it shows.
    pub shows: &'static str,
    /// Secrets, each of which finds the file key alone.
    pub secrets: Vec<Secret>,
    /// The verdict.
    pub expect: Expect,
    /// The file.
    pub file: Vec<u8>,
}

/// Every published vector.
///
/// # Errors
/// Never: all of them can be built.
pub fn vectors() -> Result<Vec<Vector>, CryptoError> {
    let (one, two) = (key(1)?, key(2)?);
    let by_key = || vec![SealSecret::Key(one.clone())];
    let pass = || SealSecret::passphrase(Passphrase::new(PASSPHRASE), KdfPreset::Min);
    let three = || vec![SealSecret::Key(two.clone()), pass(), SealSecret::Key(one.clone())];
    let chunks = || uint8(&[4095, 4096, 4097, 8192, 8193, 12_288]);
    let mut vectors = vec![
        build(
            ("key", "one key; lengths around a chunk of 4,096 bytes"),
            (by_key(), 8, 64),
            testing::specs(),
        )?,
        build(
            ("chunks", "whole and short last chunks, data on pages"),
            (by_key(), 8, 4096),
            chunks(),
        )?,
        build(
            ("passphrase", "one passphrase, Argon2id at its least cost"),
            (vec![pass()], 8, 64),
            uint8(&[5000]),
        )?,
        build(
            ("slots", "two keys and a passphrase, no room for more"),
            (three(), 0, 1),
            uint8(&[100, 5000]),
        )?,
        build(("meta", "meta, empty and scalar tensors"), (by_key(), 8, 64), meta_and_empty())?,
        build(
            ("long_dim", "a dimension of more than 32 bits: data version 5"),
            (by_key(), 8, 64),
            long_dim(),
        )?,
        build(("paths", "structured paths, a parameter and a buffer"), (by_key(), 8, 64), paths())?,
    ];
    let mut unknown = build(
        ("unknown_slot", "a key slot of a kind yet to come stands first"),
        (three(), 8, 64),
        uint8(&[300]),
    )?;
    add_unknown_slot(&mut unknown)?;
    vectors.push(unknown);

    let mut flipped = build(
        ("bad_chunk", "the last byte of the last tensor flipped"),
        (by_key(), 8, 64),
        uint8(&[100, 5000]),
    )?;
    flipped.expect = Expect::Open;
    let last = flipped.file.len() - 9;
    flip(&mut flipped.file, last)?;
    vectors.push(flipped);

    let mut altered = build(
        ("bad_front", "a byte of the file header's padding flipped"),
        (by_key(), 8, 64),
        uint8(&[100]),
    )?;
    altered.expect = Expect::FrontAltered;
    flip(&mut altered.file, 50)?;
    vectors.push(altered);

    let old = build(("rolled_back", ""), (by_key(), 8, 64), uint8(&[100, 5000]))?;
    let mut mixed = build(
        (
            "front_of_another",
            "the front of one file before the tensors of another, both for one key",
        ),
        (by_key(), 8, 64),
        uint8(&[100, 5000]),
    )?;
    mixed.expect = Expect::Open;
    let front_len = usize::try_from(decode_front(&old.file)?.header.front_len()).unwrap_or(0);
    if let (Some(to), Some(from)) = (mixed.file.get_mut(..front_len), old.file.get(..front_len)) {
        to.copy_from_slice(from);
    }
    vectors.push(mixed);
    vectors.extend(interrupted()?);
    Ok(vectors)
}

fn build(
    (name, shows): (&'static str, &'static str),
    (secrets, room, alignment): (Vec<SealSecret>, usize, u64),
    specs: Vec<TensorSpec>,
) -> Result<Vector, CryptoError> {
    let sealer = seeded_sealer(&format!("tz sealed vector: {name}"), &secrets, 4096, room)?;
    let mut extension = Extension::default();
    extension.writer = Some("tz sealed vectors".to_owned());
    Ok(Vector {
        name,
        shows,
        secrets: secrets.iter().map(SealSecret::to_secret).collect(),
        expect: Expect::Opens,
        file: seal_file(specs, &sealer, alignment, extension)?,
    })
}

/// 32 bytes that count up from 16 × `seed`.
fn key(seed: u8) -> Result<Key, CryptoError> {
    let bytes: Vec<u8> = (16 * seed..).take(KEY_LEN).collect();
    Key::from_bytes(&bytes)
}

fn uint8(lens: &[u64]) -> Vec<TensorSpec> {
    let spec = |&len: &u64| TensorSpec::new(format!("uint8.{len}"), Element::Uint8, vec![len]);
    lens.iter().map(spec).collect()
}

fn meta_and_empty() -> Vec<TensorSpec> {
    let mut meta = TensorSpec::new("meta", Element::Bfloat16, vec![64, 3]);
    meta.meta = true;
    vec![
        TensorSpec::new("scalar", Element::Float64, vec![]),
        meta,
        TensorSpec::new("empty", Element::Float32, vec![7, 0, 3]),
        TensorSpec::new("after", Element::Bfloat16, vec![3000]),
    ]
}

fn long_dim() -> Vec<TensorSpec> {
    vec![
        TensorSpec::new("long", Element::Float32, vec![(1 << 32) + 5, 0]),
        TensorSpec::new("short", Element::Int64, vec![2, 3]),
    ]
}

fn paths() -> Vec<TensorSpec> {
    let path = |keys: Vec<tz_format::PathKey>| {
        TensorPath::new(keys).unwrap_or_else(|| TensorPath::from("unreachable"))
    };
    let mut parameter = TensorSpec::new("näme", Dtype::from(Element::Float16), vec![2, 2]);
    parameter.kind = tz_format::TensorKind::Parameter;
    parameter.module_index = 3;
    let mut buffer = TensorSpec::new(".buffer", Element::Bool, vec![9]);
    buffer.kind = tz_format::TensorKind::Buffer;
    vec![
        TensorSpec::new(
            path(vec!["layers".into(), 0.into(), "weight".into()]),
            Element::Float8E4m3fn,
            vec![4, 5],
        ),
        TensorSpec::new(
            path(vec!["layers".into(), 1.into(), "日本".into()]),
            Element::Complex64,
            vec![2],
        ),
        parameter,
        buffer,
    ]
}

fn add_unknown_slot(vector: &mut Vector) -> Result<(), CryptoError> {
    let front = decode_front(&vector.file)?;
    let limits = KdfLimits::default();
    let mut sealed = SealedFront::open(&front, &vector.file, &vector.secrets, &limits)?;
    let slot = Slot::Unknown(0x7f01, vec![0xa5; 99]);
    sealed.record.slots.insert(0, slot);
    let len = front::whole(&front, &vector.file)?.len();
    write_slots(vector.file.get_mut(..len).unwrap_or_default(), &front, &sealed)
}

/// Files as an interrupted rewrap leaves them: a second key is added to the first.
fn interrupted() -> Result<Vec<Vector>, CryptoError> {
    let secrets = || Ok::<_, CryptoError>((vec![SealSecret::Key(key(1)?)], 8, 64));
    let mut vectors = Vec::new();
    for (name, shows, expect) in [
        (
            "journal",
            "the journal of a rewrap, which did not happen, follows the file",
            Expect::Opens,
        ),
        ("journal_done", "the same, and the rewrap is done: key 2 opens it too", Expect::Opens),
        ("journal_cut", "the first 100 bytes of a journal", Expect::Opens),
        ("journal_zeros", "five bytes of its magic, then zeros", Expect::Opens),
        ("journal_torn", "a header that was torn, and a journal", Expect::FrontAltered),
        ("journal_too_long", "a byte more than a journal", Expect::FileLength),
        ("tail", "zeros, then a byte: no journal", Expect::FileLength),
    ] {
        let mut vector = build((name, shows), secrets()?, uint8(&[100, 5000]))?;
        let (new, journal) = rewrapped(&vector)?;
        let old = vector.file.get(..new.len()).unwrap_or_default().to_vec();
        // In the middle of the key that is added: the slot before it is whole.
        let middle = old.iter().zip(&new).filter(|(old, new)| old != new).count() / 2;
        let differ = old.iter().zip(&new).enumerate().filter(|(_, (old, new))| old != new);
        let torn_at = differ.map(|(at, _)| at).nth(middle).unwrap_or(0);
        let header = match name {
            "journal_done" => new,
            "journal_torn" => {
                new.iter().take(torn_at).chain(old.iter().skip(torn_at)).copied().collect()
            }
            _ => old,
        };
        let mut tail = vec![0; journal.len()];
        let kept = match name {
            "journal_zeros" => 5,
            "journal_cut" => 100,
            "tail" => 0,
            _ => journal.len(),
        };
        for (place, byte) in tail.iter_mut().zip(&journal).take(kept) {
            *place = *byte;
        }
        match name {
            "journal_cut" => tail.truncate(kept),
            "journal_too_long" => tail.push(0),
            "tail" => tail.splice(9.., [1]).for_each(drop),
            _ => {}
        }
        if let Some(place) = vector.file.get_mut(..header.len()) {
            place.copy_from_slice(&header);
        }
        vector.file.extend(tail);
        vector.expect = expect;
        if name == "journal_done" {
            vector.secrets.push(Secret::Key(key(2)?));
        }
        vectors.push(vector);
    }
    Ok(vectors)
}

/// The header with key 2 added, and the journal of that rewrap.
fn rewrapped(vector: &Vector) -> Result<(Vec<u8>, Vec<u8>), CryptoError> {
    let front = decode_front(&vector.file)?;
    let limits = KdfLimits::default();
    let mut sealed = SealedFront::open(&front, &vector.file, &vector.secrets, &limits)?;
    let mut entropy = Seeded::new(&format!("tz sealed vector: {}, rewrapped", vector.name));
    sealed.record.slots.push(Slot::wrap(
        &SealSecret::Key(key(2)?),
        &sealed.file_key,
        &mut entropy,
    )?);
    let old = front::whole(&front, &vector.file)?;
    let mut new = old.to_vec();
    write_slots(&mut new, &front, &sealed)?;
    let journal = Journal::between(old, &new, &Limits::default());
    let journal = journal.ok_or(CryptoError::Misuse("not sealed"))?.to_bytes();
    Ok((new, journal))
}

fn write_slots(header: &mut [u8], front: &Front, sealed: &SealedFront) -> Result<(), CryptoError> {
    let (Some(slots_at), Some(mac_at)) = (front.key_slots_at(), front.metadata_mac_at()) else {
        return Err(CryptoError::Misuse("not sealed"));
    };
    front::splice(header, slots_at, &sealed.record.write()?)?;
    front::seal(&sealed.file_key, header, mac_at)
}

fn flip(file: &mut [u8], at: usize) -> Result<(), CryptoError> {
    let byte = file.get_mut(at).ok_or(CryptoError::Misuse("no such byte"))?;
    *byte ^= 1;
    Ok(())
}
