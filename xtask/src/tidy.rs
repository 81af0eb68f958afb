//! Checks what the compiler does not: file sizes, first lines, `unsafe` against a list, tests that
//! wait or are switched off, and that documents, crates and tests name each other.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use crate::workspace;

mod lists;
mod source;

use lists::{LONG_FILES, UNSAFE_FILES};
use source::{code_only, count_word, function_names, test_part};

/// A file longer than this does two jobs.
const MAX_LINES: usize = 450;

/// What a registry shows of a crate, or refuses one without.
const MANIFEST_KEYS: [&str; 7] =
    ["description", "license", "repository", "documentation", "categories", "keywords", "readme"];

/// Checks the checkout; every fault is named.
pub(crate) fn run() -> Result<()> {
    let tree = Tree::load(workspace::root())?;
    let faults = tree.faults();
    if faults.is_empty() {
        println!("tidy: {} files are in order", tree.files.len());
        return Ok(());
    }
    bail!("tidy:\n  {}", faults.join("\n  "))
}

/// The text files of our own, by path from the root.
#[derive(Debug, Default)]
struct Tree {
    files: BTreeMap<String, String>,
}

impl Tree {
    fn load(root: &Path) -> Result<Self> {
        let mut tree = Self::default();
        for folder in ["crates", "docs", "fuzz/fuzz_targets", "fuzz/harness", "xtask"] {
            tree.add(root, folder)?;
        }
        Ok(tree)
    }

    fn add(&mut self, root: &Path, folder: &str) -> Result<()> {
        let entries = std::fs::read_dir(root.join(folder)).with_context(|| folder.to_owned())?;
        for entry in entries {
            let entry = entry?;
            let path = format!("{folder}/{}", entry.file_name().to_string_lossy());
            let is_text = [".rs", ".py", ".md", ".toml"].iter().any(|end| path.ends_with(end));
            if entry.file_type()?.is_dir() {
                self.add(root, &path)?;
            } else if is_text {
                let text = std::fs::read_to_string(entry.path()).context(path.clone())?;
                self.files.insert(path, text);
            }
        }
        Ok(())
    }

    fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        self.check_sizes(LONG_FILES, &mut faults);
        self.check_first_lines(&mut faults);
        self.check_tests(&mut faults);
        self.check_unsafe(UNSAFE_FILES, &mut faults);
        self.check_architecture(&mut faults);
        self.check_manifests(&mut faults);
        self.check_promises("docs/FORMAT.md", "F-", &mut faults);
        self.check_promises("docs/ENCRYPTION.md", "E-", &mut faults);
        for page in ["DEPLOY", "REMOTE", "SECURITY-REVIEW", "TESTING", "VLLM"] {
            self.check_cited_tests(&format!("docs/{page}.md"), &mut faults);
        }
        self.check_frozen(&mut faults);
        faults
    }

    fn ending(&self, end: &str) -> impl Iterator<Item = (&str, &str)> {
        let files = self.files.iter().filter(move |(path, _)| path.ends_with(end));
        files.map(|(path, text)| (&**path, &**text))
    }

    fn check_sizes(&self, allowed: &[(&str, &str)], faults: &mut Vec<String>) {
        let code = self.ending(".rs").chain(self.ending(".py"));
        let long: BTreeMap<&str, usize> = code
            .map(|(path, text)| (path, text.lines().count()))
            .filter(|(_, lines)| *lines > MAX_LINES)
            .collect();
        for (path, lines) in &long {
            if !allowed.iter().any(|(allowed, _)| allowed == path) {
                faults.push(format!("{path}: {lines} lines, more than {MAX_LINES}: split it"));
            }
        }
        for (path, _) in allowed.iter().filter(|(path, _)| !long.contains_key(path)) {
            faults.push(format!("{path}: no longer long: take it off xtask/src/tidy/lists.rs"));
        }
    }

    fn check_first_lines(&self, faults: &mut Vec<String>) {
        for (path, text) in self.ending(".rs") {
            if !text.starts_with("//! ") {
                faults.push(format!("{path}: does not start with `//!` and what it owns"));
            }
        }
    }

    fn check_tests(&self, faults: &mut Vec<String>) {
        for (path, text) in self.ending(".rs") {
            let code = code_only(text);
            if code.contains("#[ignore") {
                faults.push(format!("{path}: an ignored test: make it run or remove it"));
            }
            if count_word(test_part(path, &code), "sleep") > 0 {
                faults.push(format!("{path}: a test sleeps: wait for the event itself"));
            }
        }
    }

    fn check_unsafe(&self, listed: &[(&str, usize, &str)], faults: &mut Vec<String>) {
        let mut found: BTreeMap<&str, usize> = self
            .ending(".rs")
            .map(|(path, text)| (path, count_word(&code_only(text), "unsafe")))
            .filter(|(_, count)| *count > 0)
            .collect();
        for (path, expect, _) in listed {
            let count = found.remove(path).unwrap_or(0);
            if count != *expect {
                faults.push(format!("{path}: `unsafe` {count} times, tidy/lists.rs says {expect}"));
            }
        }
        for (path, count) in found {
            faults.push(format!(
                "{path}: `unsafe` {count} times, not in xtask/src/tidy/lists.rs with a reason"
            ));
        }
    }

    fn check_architecture(&self, faults: &mut Vec<String>) {
        let architecture = self.files.get("docs/ARCHITECTURE.md").map_or("", |text| text);
        for (path, _) in self.ending("/Cargo.toml") {
            let folder = path.strip_prefix("crates/").and_then(|path| path.split('/').next());
            if let Some(folder) = folder.filter(|name| !architecture.contains(*name)) {
                faults.push(format!("docs/ARCHITECTURE.md: does not name crates/{folder}"));
            }
        }
    }

    fn check_manifests(&self, faults: &mut Vec<String>) {
        for (path, text) in self.ending("/Cargo.toml") {
            let Some(folder) = path.strip_prefix("crates/").and(path.strip_suffix("/Cargo.toml"))
            else {
                continue;
            };
            let package = text.split("\n[").next().unwrap_or_default();
            let keys: BTreeSet<&str> =
                package.lines().filter_map(|line| line.split([' ', '.', '=']).next()).collect();
            for key in MANIFEST_KEYS.iter().filter(|key| !keys.contains(**key)) {
                faults.push(format!("{path}: the package has no {key}"));
            }
            if !self.files.contains_key(&format!("{folder}/README.md")) {
                faults.push(format!("{folder}: has no README.md"));
            }
        }
    }

    /// Every `F-nn` in the page has a test with `fnn` as a word of its name.
    fn check_promises(&self, page: &str, prefix: &str, faults: &mut Vec<String>) {
        let Some(text) = self.files.get(page) else {
            return;
        };
        let tests = self.tests();
        let tested: BTreeSet<&str> = tests.iter().flat_map(|name| name.split('_')).collect();
        for promise in promises(text, prefix) {
            let word = promise.to_lowercase().replace('-', "");
            if !tested.contains(&*word) {
                faults.push(format!("{page}: promise {promise} has no test named `{word}_…`"));
            }
        }
    }

    /// A name of at least four words that such a page sets as code is that of a test.
    fn check_cited_tests(&self, page: &str, faults: &mut Vec<String>) {
        let Some(text) = self.files.get(page) else {
            return;
        };
        let tests = self.tests();
        for name in text.split('`').skip(1).step_by(2).filter(|code| is_test_name(code)) {
            if !tests.contains(name) {
                faults.push(format!("{page}: names the test `{name}`, which is not in the tree"));
            }
        }
    }

    /// The functions of all test code, helpers among them.
    fn tests(&self) -> BTreeSet<String> {
        let codes = self.ending(".rs").map(|(path, text)| (path, code_only(text)));
        let names = |(path, code): (&str, String)| {
            let names = function_names(test_part(path, &code)).map(str::to_owned);
            names.collect::<Vec<_>>()
        };
        codes.flat_map(names).collect()
    }

    /// Constants that can never change are pinned by a digest in the format's page.
    fn check_frozen(&self, faults: &mut Vec<String>) {
        let Some(frozen) = self.files.get("crates/tz-format/src/frozen.rs") else {
            return;
        };
        let digest = Sha256::digest(frozen.as_bytes());
        let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        let page = self.files.get("docs/FORMAT.md").map_or("", |text| text);
        let label = "frozen.rs sha256:";
        let recorded = page.lines().find_map(|line| line.split_once(label)).map(|(_, rest)| rest);
        let recorded = recorded.unwrap_or("").trim_matches(|c: char| !c.is_ascii_hexdigit());
        if recorded != digest {
            faults.push(format!(
                "crates/tz-format/src/frozen.rs changed: if no old file can differ, \
                 record `{label} {digest}` in docs/FORMAT.md"
            ));
        }
    }
}

fn is_test_name(code: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    code.bytes().all(is_word) && code.matches('_').count() >= 3
}

/// The distinct promise ids in a page: the prefix and two digits.
fn promises<'a>(text: &'a str, prefix: &str) -> BTreeSet<&'a str> {
    text.match_indices(prefix)
        .filter(|(at, _)| !text[..*at].ends_with(|c: char| c.is_alphanumeric() || c == '-'))
        .filter_map(|(at, _)| text.get(at..at + prefix.len() + 2))
        .filter(|id| id[prefix.len()..].bytes().all(|byte| byte.is_ascii_digit()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(files: &[(&str, &str)]) -> Tree {
        let own = |(path, text): &(&str, &str)| ((*path).to_owned(), (*text).to_owned());
        Tree { files: files.iter().map(own).collect() }
    }

    /// Runs one check on a tree of one file and expects one fault with this text, or none.
    #[track_caller]
    fn check(run: impl Fn(&Tree, &mut Vec<String>), files: &[(&str, &str)], expect: Option<&str>) {
        let mut faults = Vec::new();
        run(&tree(files), &mut faults);
        match (expect, &*faults) {
            (None, []) => {}
            (Some(expect), [fault]) if fault.contains(expect) => {}
            (expect, faults) => panic!("expected {expect:?}, found {faults:?}"),
        }
    }

    #[test]
    fn long_files_are_found_and_excuses_expire() {
        let long = "//! x\n".repeat(MAX_LINES + 1);
        let files = [("xtask/src/a.rs", &*long)];
        check(|tree, faults| tree.check_sizes(&[], faults), &files, Some("split it"));
        let allowed = [("xtask/src/a.rs", "a table")];
        check(|tree, faults| tree.check_sizes(&allowed, faults), &files, None);
        let short = [("xtask/src/a.rs", "//! x\n")];
        check(|tree, faults| tree.check_sizes(&allowed, faults), &short, Some("no longer long"));
    }

    #[test]
    fn a_file_must_say_what_it_owns() {
        let silent = [("crates/a/src/lib.rs", "fn a() {}")];
        check(Tree::check_first_lines, &silent, Some("does not start"));
        check(Tree::check_first_lines, &[("crates/a/src/lib.rs", "//! A.\n")], None);
    }

    #[test]
    fn tests_neither_sleep_nor_are_ignored() {
        let path = "crates/a/src/lib.rs";
        check(Tree::check_tests, &[(path, "#[ignore]\nfn a() {}")], Some("ignored"));
        check(Tree::check_tests, &[(path, "fn retry() { sleep(backoff) }")], None);
        let sleeps = "#[cfg(test)]\nmod tests { fn a() { std::thread::sleep(x) } }";
        check(Tree::check_tests, &[(path, sleeps)], Some("sleeps"));
        let says_so = "#[cfg(test)]\nmod tests { /* never sleep( */ }";
        check(Tree::check_tests, &[(path, says_so)], None);
    }

    #[test]
    fn unsafe_is_counted_against_the_list() {
        let files = [("crates/a/src/map.rs", "//! unsafe\nfn a() { unsafe { b() } }")];
        let listed = |count| [("crates/a/src/map.rs", count, "mmap")];
        check(|tree, faults| tree.check_unsafe(&listed(1), faults), &files, None);
        check(|tree, faults| tree.check_unsafe(&listed(2), faults), &files, Some("says 2"));
        check(
            |tree, faults| tree.check_unsafe(&[], faults),
            &files,
            Some("lists.rs with a reason"),
        );
    }

    #[test]
    fn every_crate_is_on_the_map() {
        let manifest = ("crates/tz-io/Cargo.toml", "");
        check(Tree::check_architecture, &[manifest], Some("does not name crates/tz-io"));
        let map = ("docs/ARCHITECTURE.md", "`tz-io` moves bytes");
        check(Tree::check_architecture, &[manifest, map], None);
    }

    #[test]
    fn every_crate_says_what_a_registry_shows() {
        let whole = MANIFEST_KEYS.map(|key| format!("{key} = 1\n")).concat();
        let path = "crates/a/Cargo.toml";
        let readme = ("crates/a/README.md", "");
        check(Tree::check_manifests, &[(path, &whole), readme], None);
        let inherited = whole.replace("license = 1", "license.workspace = true");
        check(Tree::check_manifests, &[(path, &inherited), readme], None);
        let lacking = whole.replace("readme", "[dependencies]\nreadme");
        check(Tree::check_manifests, &[(path, &lacking), readme], Some("has no readme"));
        check(Tree::check_manifests, &[(path, &whole)], Some("has no README.md"));
    }

    #[test]
    fn every_promise_has_a_test_of_its_name() {
        let run = |tree: &Tree, faults: &mut Vec<String>| {
            tree.check_promises("docs/FORMAT.md", "F-", faults);
        };
        let page = ("docs/FORMAT.md", "**F-03** Data is aligned. UTF-8, F-x, PDF-12");
        let path = "crates/a/tests/it/main.rs";
        check(run, &[page, (path, "fn f03_data_is_aligned() {}")], None);
        check(run, &[page, (path, "fn f030_other() {}")], Some("F-03"));
        let untested = [page, ("crates/a/src/lib.rs", "fn f03_not_a_test() {}")];
        check(run, &untested, Some("F-03"));
    }

    #[test]
    fn tests_that_a_page_names_are_there() {
        let run = |tree: &Tree, faults: &mut Vec<String>| {
            tree.check_cited_tests("docs/REMOTE.md", faults);
        };
        let page = ("docs/REMOTE.md", "`every_byte_is_read`; `stall_timeout`, `a b_c_d_e`");
        let path = "crates/a/tests/it/main.rs";
        check(run, &[page, (path, "fn every_byte_is_read() {}")], None);
        let elsewhere = ("crates/a/src/lib.rs", "fn every_byte_is_read() {}");
        check(run, &[page, elsewhere], Some("`every_byte_is_read`, which is not in the tree"));
    }

    #[test]
    fn frozen_constants_are_pinned_by_digest() {
        let frozen = ("crates/tz-format/src/frozen.rs", "");
        check(Tree::check_frozen, &[frozen], Some("frozen.rs changed"));
        let digest = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let page = format!("`frozen.rs sha256: {digest}`.");
        check(Tree::check_frozen, &[frozen, ("docs/FORMAT.md", &page)], None);
    }
}
