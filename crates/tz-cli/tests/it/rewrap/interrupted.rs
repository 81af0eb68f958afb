//! A `rewrap` that was interrupted, and left its journal in the file: what readers say of it, and what the next
//! `rewrap` makes of it.

use std::fs;

use tz_crypto::Journal;
use tz_format::Limits;

use super::{TENSORS, opens, sealed};
use crate::keys::Keys;
use crate::run::{Ran, tz_on};

/// A sealed file before and after a rewrap from `key` to `other`, in its parts.
struct Halfway {
    keys: Keys,
    old: Vec<u8>,
    new: Vec<u8>,
    rest: Vec<u8>,
    journal: Vec<u8>,
}

impl Halfway {
    fn new() -> Self {
        let keys = sealed();
        let read = || fs::read(keys.path().join(TENSORS)).expect("a file");
        let table = keys.tz("inspect s.tensors --json").exits(0).json();
        let header =
            usize::try_from(table["tensors"][0]["header_offset"].as_u64().expect("an offset"))
                .expect("small");
        let before = read();
        keys.tz("rewrap s.tensors --keyfile key --replace-slot 0 --add-keyfile other").exits(0);
        let (old, new) = (before[..header].to_vec(), read()[..header].to_vec());
        let journal = Journal::between(&old, &new, &Limits::default()).expect("headers").to_bytes();
        Self { rest: before[header..].to_vec(), keys, old, new, journal }
    }

    /// The new header up to the first byte that differs, the old one from there on.
    fn torn(&self) -> Vec<u8> {
        let differ =
            self.old.iter().zip(&self.new).position(|(old, new)| old != new).expect("changed");
        [&self.new[..=differ], &self.old[differ + 1..]].concat()
    }

    fn put(&self, header: &[u8], tail: &[u8]) -> Vec<u8> {
        let file = [header, &self.rest, tail].concat();
        fs::write(self.keys.path().join(TENSORS), &file).expect("written");
        file
    }

    fn file(&self) -> Vec<u8> {
        fs::read(self.keys.path().join(TENSORS)).expect("a file")
    }
}

const WARNING: &str = "the file ends in the journal of an interrupted `rewrap`";

#[track_caller]
fn warns(ran: &Ran) {
    assert_eq!(ran.stderr.matches(WARNING).count(), 1, "{}", ran.stderr);
    assert!(ran.stderr.contains("WARN"), "{}", ran.stderr);
}

#[test]
fn a_file_that_ends_in_a_journal_opens_with_a_warning_and_stays_as_it_is() {
    let halfway = Halfway::new();
    let Halfway { keys, old, new, journal, .. } = &halfway;
    let zeros = vec![0; journal.len()];
    for (header, tail, key, not) in [
        (old, &journal[..], "key", "other"),
        (new, &journal[..], "other", "key"),
        (old, &journal[..700], "key", "other"),
        (old, &journal[..3], "key", "other"),
        (old, &zeros[..], "key", "other"),
        (new, &zeros[..1], "other", "key"),
    ] {
        let file = halfway.put(header, tail);
        let stamp = || fs::metadata(keys.path().join(TENSORS)).unwrap().modified().unwrap();
        let before = stamp();
        for line in [
            "verify s.tensors --keyfile",
            "diff s.tensors demo --keyfile",
            "checksum s.tensors --keyfile",
            "deserialize s.tensors --keyfile",
            "decrypt s.tensors d.tensors --keyfile",
        ] {
            warns(&keys.tz(&format!("{line} {key}")).exits(0));
            keys.tz(&format!("{line} {not}")).exits(5);
        }
        let ran = keys.tz(&format!("verify s.tensors --json --keyfile {key}")).exits(0);
        warns(&ran);
        assert_eq!(ran.json()["ends_in_journal"], true);
        assert!(!keys.tz(&format!("verify s.tensors -q --keyfile {key}")).stderr.contains("WARN"));
        // Also without a key, and with nothing printed but what the file holds.
        for line in ["rewrap s.tensors", "inspect s.tensors"] {
            warns(&keys.tz(line).exits(0));
        }
        let list = keys.tz("rewrap s.tensors --json").exits(0).json();
        assert_eq!((&list["changed"], &list["ends_in_journal"]), (&false.into(), &true.into()));
        assert!(halfway.file() == file && stamp() == before, "{} bytes", tail.len());
    }
    halfway.put(old, &[]);
    let ran = keys.tz("verify s.tensors --json --keyfile key").exits(0);
    assert_eq!((ran.json()["ends_in_journal"].clone(), &*ran.stderr), (false.into(), ""));
}

#[test]
fn anything_else_behind_the_terminator_is_refused() {
    let halfway = Halfway::new();
    let Halfway { keys, old, journal, .. } = &halfway;
    let mut long = journal.clone();
    long.push(0);
    for tail in [b"x".to_vec(), vec![0; journal.len() + 1], journal[1..].to_vec(), long] {
        let file = halfway.put(old, &tail);
        for line in ["verify s.tensors --keyfile key", "deserialize s.tensors --keyfile key"] {
            keys.refuses(line, "bytes where");
        }
        keys.refuses("rewrap s.tensors --keyfile key --add-keyfile other", "bytes where");
        assert!(halfway.file() == file);
    }
}

#[test]
fn a_stream_that_ends_in_a_journal_is_read_like_the_file() {
    let halfway = Halfway::new();
    let Halfway { keys, old, journal, rest, .. } = &halfway;
    let on = |line: &str, tail: &[u8]| {
        let words: Vec<&str> = line.split(' ').collect();
        tz_on(keys.path(), &words, &[old, &**rest, tail].concat())
    };
    for line in ["verify - --json --keyfile key", "deserialize - --json --keyfile key"] {
        for tail in [&journal[..], &journal[..40], &[0; 9]] {
            let ran = on(line, tail).exits(0);
            warns(&ran);
            assert!(!line.starts_with("verify") || ran.json()["ends_in_journal"] == true);
        }
        let ran = on(line, &[]).exits(0);
        assert_eq!(ran.stderr, "");
        assert!(!line.starts_with("verify") || ran.json()["ends_in_journal"] == false);
        for tail in [b"x".to_vec(), [&journal[..], &[0]].concat(), vec![7; 1 << 20]] {
            let ran = on(line, &tail).exits(5);
            assert!(ran.stderr.contains("bytes where"), "{}", ran.stderr);
        }
    }
    let words = ["verify", "-", "--keyfile", "key"];
    let short = [old, &rest[..rest.len() - 1]].concat();
    let ran = tz_on(keys.path(), &words, &short).exits(5);
    assert!(ran.stderr.contains("bytes where"), "{}", ran.stderr);
}

#[test]
fn a_torn_header_before_a_journal_is_refused_and_the_error_names_rewrap() {
    let halfway = Halfway::new();
    let Halfway { keys, old, new, journal, .. } = &halfway;
    let half = old.len() - 400;
    let damaged = [&old[..half], &vec![0x55; 400]].concat();
    for header in [&halfway.torn(), &[&new[..half], &old[half..]].concat(), &damaged] {
        for tail in [&journal[..], &journal[..100]] {
            if *header == damaged && tail.len() < journal.len() {
                // Nothing says where a part of a journal would be.
                continue;
            }
            let file = halfway.put(header, tail);
            for line in ["verify s.tensors --keyfile key", "checksum s.tensors --keyfile other"] {
                keys.refuses(line, "`rewrap`");
            }
            assert!(halfway.file() == file);
        }
        halfway.put(header, &[]);
        let ran = keys.tz("verify s.tensors --keyfile key");
        assert!([4, 5].contains(&ran.code) && !ran.stderr.contains("`rewrap`"), "{}", ran.stderr);
    }
}

/// The secrets that open the file after a `rewrap` by `by` that adds a passphrase, and what it said.
#[track_caller]
fn recovers(halfway: &Halfway, by: &str, expected: &[&str]) -> Ran {
    let line =
        format!("rewrap s.tensors --keyfile {by} --add-passphrase-file pass --kdf min --json");
    let ran = halfway.keys.tz(&line).exits(0);
    let file = halfway.file();
    assert!(file[halfway.old.len()..] == halfway.rest[..], "tensors as they were, and no journal");
    opens(&halfway.keys, &[expected, &["--passphrase-file pass"]].concat());
    ran
}

#[test]
fn what_is_on_the_disk_decides_and_the_next_rewrap_says_so() {
    let halfway = Halfway::new();
    let Halfway { old, new, journal, .. } = &halfway;
    let torn = halfway.torn();
    // All that a rewrap changes, which is half a journal without its frame.
    let changed = (journal.len() - 64) / 2;
    let lost = [&old[..old.len() - changed], &vec![0; changed]].concat();
    for (header, tail, by, opened, earlier) in [
        (old, &journal[..], "key", "--keyfile key", "not_done"),
        (old, &journal[..journal.len() - 1], "key", "--keyfile key", "not_done"),
        (old, &journal[..8], "key", "--keyfile key", "not_done"),
        (old, &[0; 30][..], "key", "--keyfile key", "not_done"),
        (new, &journal[..], "other", "--keyfile other", "done"),
        (&torn, &journal[..], "other", "--keyfile other", "done"),
        (&lost, &journal[..], "other", "--keyfile other", "done"),
    ] {
        halfway.put(header, tail);
        let report = recovers(&halfway, by, &[opened]).json();
        assert_eq!(
            (&report["recovered"], &report["earlier_rewrap"]),
            (&true.into(), &earlier.into())
        );
    }
    halfway.put(new, journal);
    let ran = halfway.keys.tz("rewrap s.tensors --keyfile other --add-keyfile key").exits(0);
    assert!(
        ran.stderr.contains("an earlier change was interrupted, and is done"),
        "{}",
        ran.stderr
    );
}

/// The key that was replaced brings the file in order, and is then as useless as it was to be.
#[test]
fn a_replaced_key_recovers_the_new_header_and_opens_nothing() {
    let halfway = Halfway::new();
    halfway.put(&halfway.torn(), &halfway.journal);
    let keys = &halfway.keys;
    keys.refuses("rewrap s.tensors --keyfile key --add-keyfile key", "opens the file");
    assert!(halfway.file() == [&*halfway.new, &halfway.rest].concat());
    opens(keys, &["--keyfile other"]);
}

#[test]
fn nothing_is_written_without_a_key_or_by_a_journal_that_is_not_of_the_file() {
    let halfway = Halfway::new();
    let Halfway { keys, old, new, journal, .. } = &halfway;
    keys.secret("third", "a third key, also of 32 bytes!!!");
    let change = "--add-passphrase-file pass --kdf min";
    for (header, tail) in [(old, &journal[..]), (new, &journal[..]), (&halfway.torn(), journal)] {
        let file = halfway.put(header, tail);
        for by in ["--keyfile third", "--passphrase-file wrong"] {
            keys.refuses(&format!("rewrap s.tensors {by} {change}"), "");
            assert!(halfway.file() == file, "{by}");
        }
        keys.refuses(&format!("rewrap s.tensors {change}"), "key");
        assert!(halfway.file() == file);
    }

    // A header that nothing vouches for, before a part of a journal: nobody can tell what it was.
    let file = halfway.put(&halfway.torn(), &journal[..500]);
    keys.refuses(&format!("rewrap s.tensors --keyfile other {change}"), "");
    assert!(halfway.file() == file);

    // A journal of another file, whole in itself: the header is authentic, so it is of no use to anybody.
    let other = Halfway::new();
    halfway.put(old, &other.journal);
    recovers(&halfway, "key", &["--keyfile key"]);
    halfway.put(&halfway.torn(), &other.journal);
    let file = halfway.file();
    keys.refuses(&format!("rewrap s.tensors --keyfile key {change}"), "");
    assert!(halfway.file() == file);
}

/// The headers in the journal are authentic, and older than the one on the disk.
#[test]
fn a_journal_of_older_headers_does_not_bring_one_back() {
    let halfway = Halfway::new();
    let keys = &halfway.keys;
    halfway.put(&halfway.new, &[]);
    keys.secret("third", "a third key, also of 32 bytes!!!");
    keys.tz("rewrap s.tensors --keyfile other --replace-slot 0 --add-keyfile third").exits(0);
    let header = halfway.file()[..halfway.old.len()].to_vec();
    halfway.put(&header, &halfway.journal);
    keys.tz("rewrap s.tensors --keyfile third --add-passphrase-file pass --kdf min").exits(0);
    opens(keys, &["--passphrase-file pass"]);
    keys.tz("verify s.tensors --keyfile third").exits(0);
}
