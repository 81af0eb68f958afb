//! What lies next to a sealed file. The last version kept its journal there, as `.NAME.front.bak`, and anybody who can
//! write to the folder can put one there.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::Command;

use super::{TENSORS, opens, sealed};
use crate::keys::Keys;
use crate::run::listing;

const NAME: &str = ".s.tensors.front.bak";
const CHANGE: &str = "rewrap s.tensors --keyfile key --add-passphrase-file pass --kdf min";

/// A sealed file, and the journal that the last version left of a rewrap from `key` to `other`: both headers.
struct Old {
    keys: Keys,
    old: Vec<u8>,
    new: Vec<u8>,
    rest: Vec<u8>,
}

impl Old {
    fn new() -> Self {
        let keys = sealed();
        let read = || fs::read(keys.path().join(TENSORS)).expect("a file");
        let before = read();
        // Fixed part, then the length of the index in its last eight bytes.
        let index = u64::from_le_bytes(before[65..73].try_into().expect("eight bytes"));
        let header = 73 + usize::try_from(index).expect("small");
        keys.tz("rewrap s.tensors --keyfile key --replace-slot 0 --add-keyfile other").exits(0);
        let (old, new) = (before[..header].to_vec(), read()[..header].to_vec());
        keys.secret("third", "a third key, also of 32 bytes!!!");
        Self { keys, old, new, rest: before[header..].to_vec() }
    }

    fn put(&self, header: &[u8]) {
        fs::write(self.keys.path().join(TENSORS), [header, &self.rest].concat()).expect("written");
    }

    fn backup(&self) -> PathBuf {
        self.keys.path().join(NAME)
    }

    fn is_whole(&self) -> bool {
        fs::read(self.keys.path().join(TENSORS)).expect("a file")[self.old.len()..] == self.rest[..]
    }
}

/// Its bytes and its time, and what else is in the folder.
fn state(keys: &Keys) -> (Vec<u8>, std::time::SystemTime, Vec<String>) {
    let path = keys.path().join(TENSORS);
    let time = fs::metadata(&path).expect("a file").modified().expect("a time");
    (fs::read(path).expect("a file"), time, listing(keys.path()))
}

/// `faults/inputs/frontbak`: garbage of another user's, then the real header, which anyone can read.
#[test]
fn a_planted_neighbour_is_never_believed() {
    let old = Old::new();
    let keys = &old.keys;
    old.put(&old.old);
    let half = old.old.len() / 2;
    let garbage = [&old.old[..half], &vec![0x55; old.old.len() - half]].concat();
    let mut altered = old.new.clone();
    *altered.last_mut().unwrap() ^= 1;
    let foreign = Old::new();
    let before = state(keys).0;
    for planted in [
        [&*garbage, &old.old].concat(),
        [&*old.old, &garbage].concat(),
        [&*old.old, &altered].concat(),
        [&*foreign.old, &foreign.new].concat(),
        [&*old.old, &old.new, &[0]].concat(),
        Vec::new(),
    ] {
        fs::write(old.backup(), &planted).unwrap();
        let unchanged = state(keys);
        for line in ["rewrap s.tensors", "inspect s.tensors", "verify s.tensors --keyfile key"] {
            let ran = keys.tz(line).exits(0);
            assert!(!ran.stderr.contains("WARN"), "{}", ran.stderr);
            assert_eq!(state(keys), unchanged);
        }
        let ran = keys.tz(CHANGE).exits(0);
        assert!(!ran.stderr.contains("interrupted"), "{}", ran.stderr);
        opens(keys, &["--keyfile key", "--passphrase-file pass"]);
        assert_eq!(fs::read(old.backup()).unwrap(), planted, "it is nobody's business");
        fs::write(keys.path().join(TENSORS), &before).unwrap();
    }
}

#[test]
fn links_pipes_and_folders_in_its_place_are_passed_over() {
    let old = Old::new();
    let keys = &old.keys;
    let elsewhere = keys.path().join("elsewhere");
    let content = [&*old.old, &old.new].concat();
    fs::write(&elsewhere, &content).unwrap();
    let plants: [&dyn Fn(); 4] = [
        &|| symlink(&elsewhere, old.backup()).unwrap(),
        &|| symlink("nowhere", old.backup()).unwrap(),
        &|| fs::create_dir(old.backup()).unwrap(),
        &|| assert!(Command::new("mkfifo").arg(old.backup()).status().unwrap().success()),
    ];
    for plant in plants {
        old.put(&old.old);
        plant();
        let unchanged = state(keys);
        keys.tz("rewrap s.tensors").exits(0);
        assert_eq!(state(keys), unchanged);
        keys.tz(CHANGE).exits(0);
        opens(keys, &["--keyfile key", "--passphrase-file pass"]);
        assert_eq!(listing(keys.path()), unchanged.2);
        assert_eq!(fs::read(&elsewhere).unwrap(), content);
        let remove = |path| fs::remove_file(&path).or_else(|_| fs::remove_dir(&path));
        remove(old.backup()).unwrap();
    }
}

/// `faults/inputs/rewrap_rollback.sh`, as the last version leaves it: the change was made, and its journal is there.
#[test]
fn an_old_journal_decides_by_what_is_on_the_disk() {
    let old = Old::new();
    let keys = &old.keys;
    let differ = old.old.iter().zip(&old.new).position(|(a, b)| a != b).unwrap();
    let torn = [&old.new[..=differ], &old.old[differ + 1..]].concat();
    for (header, by, opened, said) in [
        (&old.old, "key", "--keyfile key", "did not happen"),
        (&old.new, "other", "--keyfile other", "is done"),
        (&torn, "other", "--keyfile other", "is done"),
    ] {
        old.put(header);
        fs::write(old.backup(), [&*old.old, &old.new].concat()).unwrap();
        let unchanged = state(keys);
        // Who only reads does not touch it.
        keys.tz("rewrap s.tensors");
        keys.tz("verify s.tensors --keyfile key");
        keys.refuses("rewrap s.tensors --keyfile third --add-keyfile other", "");
        assert_eq!(state(keys), unchanged);
        let line = CHANGE.replace("--keyfile key", &format!("--keyfile {by}"));
        let ran = keys.tz(&line).exits(0);
        assert!(ran.stderr.contains(said), "{}", ran.stderr);
        assert!(!old.backup().exists() && old.is_whole());
        opens(keys, &[opened, "--passphrase-file pass"]);
    }
}

/// Copies of older headers are in everybody's hands: they bring nothing back.
#[test]
fn an_old_journal_of_older_headers_does_not_bring_one_back() {
    let old = Old::new();
    let keys = &old.keys;
    keys.tz(
        "rewrap s.tensors --keyfile other --replace-slot 0 --add-passphrase-file pass --kdf min",
    )
    .exits(0);
    fs::write(old.backup(), [&*old.old, &old.new].concat()).unwrap();
    keys.tz("rewrap s.tensors --passphrase-file pass --add-keyfile third").exits(0);
    opens(keys, &["--passphrase-file pass"]);
    keys.tz("verify s.tensors --keyfile third").exits(0);
}
