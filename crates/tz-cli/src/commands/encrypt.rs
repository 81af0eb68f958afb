//! `encrypt`: every tensor of a file under a key or passphrase.

use std::sync::Arc;
use std::time::Instant;

use clap::ValueEnum;
use tz_crypto::{FileSealer, KdfCost, KdfLimits, KdfPreset, SealSecret};
use tz_io::{Location, WriteOptions};

use super::keygen::{self, MadeKey};
use super::serialize::{self, Target};
use crate::args::{EffortArgs, FilterArgs, VerifyArgs, size};
use crate::error::Failure;
use crate::job::Session;
use crate::report::Written;
use crate::source::Source;

const EXAMPLES: &str = "\
Examples:
  tz-cli keygen model.key
  tz-cli encrypt model.tensors secret.tensors --keyfile model.key
  tz-cli encrypt model.tensors sealed.tensors --keyfile model.key --profile sealed
  TZ_PASSPHRASE=… tz-cli encrypt model.tensors secret.tensors --kdf sensitive
  tz-cli encrypt checkpoint/ s3://bucket/model.tensors --keyfile new.key --generate-key";

/// Encrypt every tensor of a model
///
/// The compat profile is read by Python tensorizer and vLLM. The sealed profile is read by tz alone: it also proves
/// that names, shapes and order are as they were written. docs/ENCRYPTION.md says what each protects.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// A .tensors file or a checkpoint, not encrypted
    #[arg(value_name = "SRC")]
    source: String,
    /// The .tensors file to write
    #[arg(value_name = "DST")]
    destination: String,
    #[command(flatten)]
    seal: SealArgs,
    /// Do not wait until the file is safe from a power cut
    #[arg(long)]
    no_fsync: bool,
    #[command(flatten)]
    verify: VerifyArgs,
    #[command(flatten)]
    effort: EffortArgs,
}

/// How to encrypt.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct SealArgs {
    /// What the encrypted file protects, and who reads it
    #[arg(long, value_enum, default_value_t = ProfileName::Compat, help_heading = "Encryption")]
    pub(crate) profile: ProfileName,
    /// Bytes per chunk [default: 2MiB compat, 1MiB sealed]
    #[arg(long, value_name = "SIZE", value_parser = size, help_heading = "Encryption")]
    chunk_size: Option<u64>,
    /// Make a new key and write it to --keyfile, which must not exist
    #[arg(long, help_heading = "Encryption")]
    pub(crate) generate_key: bool,
    #[command(flatten)]
    kdf: KdfArgs,
}

/// What a passphrase costs whoever guesses it.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct KdfArgs {
    /// What each guess at the passphrase costs: libsodium's presets
    #[arg(long, value_enum, default_value_t = Kdf::Moderate, help_heading = "Encryption")]
    kdf: Kdf,
    /// Passes over memory, instead of the preset's
    #[arg(long, value_name = "N", help_heading = "Encryption")]
    opslimit: Option<u64>,
    /// Memory per guess, instead of the preset's
    #[arg(long, value_name = "SIZE", value_parser = size, help_heading = "Encryption")]
    memlimit: Option<u64>,
    /// 16 bytes of salt in hexadecimal, instead of random ones; for tests
    #[arg(long, value_name = "HEX", value_parser = salt, help_heading = "Encryption")]
    salt: Option<[u8; 16]>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ProfileName {
    Compat,
    Sealed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kdf {
    Min,
    Interactive,
    Moderate,
    Sensitive,
}

impl Kdf {
    fn cost(self) -> KdfCost {
        match self {
            Self::Min => KdfPreset::Min,
            Self::Interactive => KdfPreset::Interactive,
            Self::Moderate => KdfPreset::Moderate,
            Self::Sensitive => KdfPreset::Sensitive,
        }
        .cost()
    }
}

fn salt(text: &str) -> Result<[u8; 16], String> {
    let digits = text.as_bytes().chunks(2).map(|pair| {
        std::str::from_utf8(pair).ok().and_then(|pair| u8::from_str_radix(pair, 16).ok())
    });
    let bytes: Option<Vec<u8>> = digits.collect();
    let bytes = bytes.and_then(|bytes| bytes.try_into().ok());
    bytes.filter(|_| text.len() == 32).ok_or_else(|| "32 hexadecimal digits are needed".to_owned())
}

impl SealArgs {
    /// Has what is written to `destination` encrypted, where a secret is at hand or is to be made.
    pub(crate) fn seal_if_asked(
        &self,
        options: &mut WriteOptions,
        session: &Session,
        destination: &Location,
    ) -> Result<MadeKey, Failure> {
        let access = &session.access;
        if !self.generate_key && access.keyfile().is_none() && access.passphrase()?.is_none() {
            return Ok(MadeKey::default());
        }
        let (sealer, made) = self.sealer(session, destination)?;
        options.seal = Some(Arc::new(sealer));
        Ok(made)
    }

    /// The sealer of a file at `destination`, for the secrets at hand.
    pub(crate) fn sealer(
        &self,
        session: &Session,
        destination: &Location,
    ) -> Result<(FileSealer, MadeKey), Failure> {
        if *destination == Location::Stdio {
            // Tags stand before the data: a stream would take two readings under the same nonces.
            return Err(Failure::usage("an encrypted file cannot be written to a stream")
                .hint("write it to a file, then send that"));
        }
        let sealed = self.profile == ProfileName::Sealed;
        let chunk_size = self.chunk_size.unwrap_or(if sealed {
            tz_crypto::DEFAULT_SEALED_CHUNK_SIZE
        } else {
            tz_crypto::DEFAULT_COMPAT_CHUNK_SIZE
        });
        let (quantum, most) = if sealed { (4096, 64 << 20) } else { (64, u64::MAX) };
        if !chunk_size.is_multiple_of(quantum) || !(1024..=most).contains(&chunk_size) {
            return Err(Failure::usage(format!("--chunk-size {chunk_size}")).hint(
                "a multiple of 64 from 1KiB on (compat), or a multiple of 4KiB up to 64MiB (sealed)",
            ));
        }
        let (secrets, mut made) = self.secrets(session)?;
        match destination {
            Location::File(path) => made.encrypts(path),
            // A store may have the object although it answered with an error.
            _ => made.keep(),
        }
        let sealer = match secrets.as_slice() {
            [one] if !sealed => FileSealer::compat(one, chunk_size)?,
            all => FileSealer::sealed(all, chunk_size)?,
        };
        Ok((sealer, made))
    }

    /// What to encrypt for. A key is made only once nothing else can be refused.
    fn secrets(&self, session: &Session) -> Result<(Vec<SealSecret>, MadeKey), Failure> {
        let access = &session.access;
        let keyfile = access.keyfile();
        let passphrase = match access.passphrase()? {
            Some(passphrase) => Some(self.kdf.secret(passphrase)?),
            None => None,
        };
        let mut made = MadeKey::default();
        let key = match (keyfile, &passphrase) {
            (None, _) if self.generate_key => {
                return Err(Failure::usage("--generate-key needs --keyfile to write to"));
            }
            (None, None) => {
                return Err(Failure::usage("no key to encrypt with")
                    .hint("--keyfile FILE, --passphrase-file FILE, or TZ_PASSPHRASE"));
            }
            (Some(_), Some(_)) if self.profile == ProfileName::Compat => {
                return Err(Failure::usage("the compat profile takes one key or one passphrase")
                    .hint("leave one out, or use --profile sealed, which takes both"));
            }
            (Some(place), _) if self.generate_key => {
                let Location::File(path) = Location::parse(place)? else {
                    return Err(Failure::usage("--generate-key writes to a local file")
                        .hint("make the key with `tz-cli keygen FILE`, then put it there"));
                };
                let key = keygen::write(&path)?;
                made = MadeKey::at(path);
                Some(key)
            }
            (Some(place), _) => Some(access.key(place)?),
            (None, Some(_)) => None,
        };
        Ok((key.map(SealSecret::Key).into_iter().chain(passphrase).collect(), made))
    }
}

impl KdfArgs {
    /// A passphrase at the cost that was asked for. What this program would refuse to read is not written either.
    pub(crate) fn secret(&self, passphrase: tz_crypto::Passphrase) -> Result<SealSecret, Failure> {
        let preset = self.kdf.cost();
        let cost = KdfCost {
            passes: self.opslimit.unwrap_or(preset.passes),
            memory: self.memlimit.unwrap_or(preset.memory),
        };
        let (least, most) = (KdfPreset::Min.cost(), KdfLimits::default());
        for (option, value, range) in [
            ("--opslimit", cost.passes, least.passes..=most.passes),
            ("--memlimit", cost.memory, least.memory..=most.memory),
        ] {
            if !range.contains(&value) {
                let (low, high) = range.into_inner();
                return Err(Failure::usage(format!("{option} {value}: from {low} to {high}")));
            }
        }
        Ok(SealSecret::Passphrase { passphrase, cost, salt: self.salt })
    }
}

pub(crate) fn run(args: &Args, session: &Session) -> Result<Written, Failure> {
    let start = Instant::now();
    let destination = Location::parse(&args.destination)?;
    let source = Source::open_with(&args.source, session, &session.access.open_without_keys()?)?;
    if source.is_encrypted() {
        return Err(Failure::key(format!("{}: the file is encrypted already", source.location()))
            .at(source.location())
            .hint("`tz-cli rewrap` changes the keys of a sealed file; `tz-cli decrypt` comes first otherwise"));
    }
    let job = session.job(&FilterArgs::default(), &args.effort, Some(args.verify))?;
    serialize::require_seekable(&source, "encrypt")?;
    let mut options = serialize::write_options(session, &args.effort, &source)?;
    options.fsync = !args.no_fsync;
    let (sealer, mut made) = args.seal.sealer(session, &destination)?;
    options.seal = Some(Arc::new(sealer));
    let target = Target { source: &source, destination: &destination, options: &options, start };
    target.write(&job, None, session).inspect(|_| made.keep())
}
