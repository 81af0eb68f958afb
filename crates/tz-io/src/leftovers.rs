//! What unfinished work leaves behind if the process ends at once: temporary files, new folders, uploads. Owns the list
//! of them ([`Leftover`], [`remove_leftovers`]), and [`TemporaryFile`] and [`TemporaryFolder`], which are on it.
//!
//! A process that must end while a thread waits for something that cannot be interrupted (a full pipe, a file server, a
//! key derivation) cannot unwind that thread. Names therefore appear and disappear under the lock of this list: once it
//! has been emptied, nothing is created or renamed any more.

use std::collections::BTreeMap;
use std::fs::{File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use tempfile::{Builder, NamedTempFile, TempDir};

/// Removes one leftover; says what stays where it cannot.
type Remove = Box<dyn FnOnce() -> Option<String> + Send>;

#[derive(Default)]
struct List {
    entries: BTreeMap<u64, Remove>,
    next: u64,
    closed: bool,
}

static LIST: Mutex<List> = Mutex::new(List { entries: BTreeMap::new(), next: 0, closed: false });

/// How long [`remove_leftovers`] waits for a name that is being created or renamed: longer only takes a file system
/// that does not answer, and then nothing can be removed from it either.
const PATIENCE: Duration = Duration::from_millis(100);

fn list() -> MutexGuard<'static, List> {
    LIST.lock().unwrap_or_else(PoisonError::into_inner)
}

impl List {
    fn add(&mut self, remove: Remove) -> Leftover {
        let number = self.next;
        self.next += 1;
        self.entries.insert(number, remove);
        Leftover(number)
    }

    fn require_open(&self) -> io::Result<()> {
        let ending = || io::Error::new(io::ErrorKind::Interrupted, "the process is ending");
        if self.closed { Err(ending()) } else { Ok(()) }
    }
}

/// An entry of the list, until it is dropped.
#[derive(Debug)]
pub struct Leftover(u64);

impl Leftover {
    /// `remove` is called if the process ends at once; it returns what it could not remove, as a sentence for the user.
    /// It must end within a fraction of a second.
    #[must_use]
    pub fn new(remove: impl FnOnce() -> Option<String> + Send + 'static) -> Self {
        list().add(Box::new(remove))
    }
}

impl Drop for Leftover {
    fn drop(&mut self) {
        // The closure itself is dropped without the lock.
        let removed = list().entries.remove(&self.0);
        drop(removed);
    }
}

/// Removes every leftover, the latest first, and lets no more temporary files appear: for a process that ends now.
/// Returns what stays, as sentences for the user.
pub fn remove_leftovers() -> Vec<String> {
    let start = Instant::now();
    let mut list = loop {
        match LIST.try_lock() {
            Ok(list) => break list,
            Err(TryLockError::Poisoned(poisoned)) => break poisoned.into_inner(),
            Err(TryLockError::WouldBlock) if start.elapsed() < PATIENCE => {
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(TryLockError::WouldBlock) => return Vec::new(),
        }
    };
    list.closed = true;
    let mut stays = Vec::new();
    while let Some((_, remove)) = list.entries.pop_last() {
        stays.extend(remove());
    }
    stays
}

/// A file that is removed when it is dropped, unless it was given a name.
#[derive(Debug)]
pub struct TemporaryFile {
    file: NamedTempFile,
    leftover: Leftover,
}

impl TemporaryFile {
    /// Makes a file `PREFIX…SUFFIX` in `folder`, with the permissions of any new file.
    ///
    /// # Errors
    /// Where the system refuses, or the process is ending.
    pub fn create_in(folder: &Path, prefix: &str, suffix: &str) -> io::Result<Self> {
        let mode = Permissions::from_mode(0o666);
        Self::make(folder, Builder::new().prefix(prefix).suffix(suffix).permissions(mode))
    }

    /// The same for its owner alone.
    ///
    /// # Errors
    /// As [`Self::create_in`].
    pub fn private_in(folder: &Path, prefix: &str, suffix: &str) -> io::Result<Self> {
        Self::make(folder, Builder::new().prefix(prefix).suffix(suffix))
    }

    fn make(folder: &Path, builder: &Builder<'_, '_>) -> io::Result<Self> {
        let mut list = list();
        list.require_open()?;
        let file = builder.tempfile_in(folder)?;
        let path = file.path().to_owned();
        let leftover = list.add(Box::new(move || stays(&path, std::fs::remove_file(&path))));
        Ok(Self { file, leftover })
    }

    /// The open file.
    #[must_use]
    pub fn as_file(&self) -> &File {
        self.file.as_file()
    }

    /// Its name for now.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// Gives it the name `path`. With `create_only`, fails where there is a file.
    ///
    /// # Errors
    /// Where the system refuses, or the process is ending.
    pub fn persist(self, path: &Path, create_only: bool) -> io::Result<()> {
        let Self { file, leftover } = self;
        let list = list();
        list.require_open()?;
        let named = match create_only {
            true => file.persist_noclobber(path),
            false => file.persist(path),
        };
        drop(list);
        drop(leftover);
        named.map(drop).map_err(|error| error.error)
    }
}

impl Write for TemporaryFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// A folder that is removed with all that is in it when it is dropped.
#[derive(Debug)]
pub struct TemporaryFolder {
    folder: TempDir,
    _leftover: Leftover,
}

impl TemporaryFolder {
    /// Makes a folder `PREFIX…` in `folder`.
    ///
    /// # Errors
    /// Where the system refuses, or the process is ending.
    pub fn create_in(folder: &Path, prefix: &str) -> io::Result<Self> {
        let mut list = list();
        list.require_open()?;
        let folder = Builder::new().prefix(prefix).tempdir_in(folder)?;
        let path: PathBuf = folder.path().to_owned();
        let leftover = list.add(Box::new(move || stays(&path, std::fs::remove_dir_all(&path))));
        Ok(Self { folder, _leftover: leftover })
    }

    /// Its name.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.folder.path()
    }
}

fn stays(path: &Path, removed: io::Result<()>) -> Option<String> {
    let error = removed.err().filter(|error| error.kind() != io::ErrorKind::NotFound)?;
    Some(format!("{}: the temporary file could not be removed: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    /// The list belongs to the process, so the test that empties it has one of its own.
    const OWN: &str = "TZ_TEST_REMOVES_LEFTOVERS";

    #[test]
    fn what_a_process_leaves_is_removed_and_nothing_appears_after() {
        if std::env::var_os(OWN).is_none() {
            let name =
                "leftovers::tests::what_a_process_leaves_is_removed_and_nothing_appears_after";
            let mut command = Command::new(std::env::current_exe().unwrap());
            let output = command.args(["--exact", name]).env(OWN, "1").output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
            return;
        }
        let root = tempfile::tempdir().unwrap();
        let names = || std::fs::read_dir(root.path()).unwrap().count();
        let done = TemporaryFile::create_in(root.path(), ".a", ".tmp").unwrap();
        done.persist(&root.path().join("done"), false).unwrap();
        drop(TemporaryFile::create_in(root.path(), ".b", ".tmp").unwrap());
        assert_eq!(names(), 1);

        let open = TemporaryFile::private_in(root.path(), ".c", ".tmp").unwrap();
        let folder = TemporaryFolder::create_in(root.path(), ".d").unwrap();
        std::fs::write(folder.path().join("inside"), "").unwrap();
        let _upload = Leftover::new(|| Some("an upload stays".to_owned()));
        drop(Leftover::new(|| Some("this one is over".to_owned())));
        assert_eq!(names(), 3);
        assert_eq!(remove_leftovers(), ["an upload stays"]);
        assert_eq!(names(), 1);

        let error = open.persist(&root.path().join("late"), false).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::Interrupted);
        assert!(TemporaryFile::create_in(root.path(), ".e", ".tmp").is_err());
        assert!(TemporaryFolder::create_in(root.path(), ".f").is_err());
        assert_eq!(names(), 1);
    }
}
