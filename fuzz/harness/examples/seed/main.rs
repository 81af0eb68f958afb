//! Writes the seeds of every target, from the fixtures and with files of our own: `fuzz/seed.sh` runs it.

mod files;
mod front;
mod texts;

use std::fs;
use std::io;
use std::path::PathBuf;

/// The corpora of all targets.
struct Corpus {
    folder: PathBuf,
}

impl Corpus {
    /// Adds a seed to the corpus of `target`.
    fn seed(&self, target: &str, name: &str, bytes: &[u8]) -> io::Result<()> {
        let folder = self.folder.join(target);
        fs::create_dir_all(&folder)?;
        fs::write(folder.join(name), bytes)
    }
}

fn main() -> io::Result<()> {
    let folder = std::env::args_os().nth(1).expect("usage: seed FOLDER").into();
    let corpus = Corpus { folder };
    front::write(&corpus)?;
    files::write(&corpus)?;
    texts::write(&corpus)
}
