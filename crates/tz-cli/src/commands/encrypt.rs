//! `encrypt`: every tensor of a file under a key or passphrase.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use clap::ValueEnum;
use tz_crypto::{FileSealer, KdfCost, KdfPreset, SealSecret};
use tz_io::Location;

use super::keygen;
use super::serialize::{self, Target};
use crate::args::{EffortArgs, size};
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
    generate_key: bool,
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
    /// The sealer for the secrets at hand.
    pub(crate) fn sealer(&self, session: &Session) -> Result<FileSealer, Failure> {
        let secrets = self.secrets(session)?;
        let sealed = self.profile == ProfileName::Sealed;
        let default = if sealed {
            tz_crypto::DEFAULT_SEALED_CHUNK_SIZE
        } else {
            tz_crypto::DEFAULT_COMPAT_CHUNK_SIZE
        };
        let chunk_size = self.chunk_size.unwrap_or(default);
        match secrets.as_slice() {
            [] => Err(Failure::usage("no key to encrypt with")
                .hint("--keyfile FILE, --passphrase-file FILE, or TZ_PASSPHRASE")),
            all if sealed => Ok(FileSealer::sealed(all, chunk_size)?),
            [one] => Ok(FileSealer::compat(one, chunk_size)?),
            _ => Err(Failure::usage("the compat profile takes one key or one passphrase")
                .hint("leave one out, or use --profile sealed, which takes both")),
        }
    }

    fn secrets(&self, session: &Session) -> Result<Vec<SealSecret>, Failure> {
        let access = &session.access;
        let mut secrets = Vec::new();
        match access.keyfile() {
            Some(place) if self.generate_key => {
                secrets.push(SealSecret::Key(keygen::write(&PathBuf::from(place))?));
            }
            Some(place) => secrets.push(SealSecret::Key(access.key(place)?)),
            None if self.generate_key => {
                return Err(Failure::usage("--generate-key needs --keyfile to write to"));
            }
            None => {}
        }
        if let Some(passphrase) = access.passphrase()? {
            secrets.push(self.passphrase(passphrase));
        }
        Ok(secrets)
    }

    /// A passphrase at the cost that was asked for.
    pub(crate) fn passphrase(&self, passphrase: tz_crypto::Passphrase) -> SealSecret {
        let preset = self.kdf.cost();
        let cost = KdfCost {
            passes: self.opslimit.unwrap_or(preset.passes),
            memory: self.memlimit.unwrap_or(preset.memory),
        };
        SealSecret::Passphrase { passphrase, cost, salt: self.salt }
    }
}

pub(crate) fn run(args: &Args, session: &Session) -> Result<Written, Failure> {
    let start = Instant::now();
    let destination = Location::parse(&args.destination)?;
    let source = Source::open_with(&args.source, session, &session.access.open_front()?)?;
    if source.is_encrypted() {
        return Err(Failure::key(format!("{}: the file is encrypted already", source.location()))
            .at(source.location())
            .hint("`tz-cli rewrap` changes the keys of a sealed file; `tz-cli decrypt` comes first otherwise"));
    }
    let mut options = serialize::write_options(session, &args.effort, &source)?;
    options.fsync = !args.no_fsync;
    options.seal = Some(Arc::new(args.seal.sealer(session)?));
    let job = session.job(&crate::args::FilterArgs::default(), &args.effort, None)?;
    let target = Target { source: &source, destination: &destination, options: &options, start };
    target.write(&job, None, session)
}
