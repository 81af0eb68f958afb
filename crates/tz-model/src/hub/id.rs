//! Names that become paths and addresses. Owns [`ModelId`] and [`Revision`], which nothing else builds.

use std::fmt;

use super::error::HubError;

/// Longest id that the hub gives out.
const MAX_ID_LEN: usize = 96;
/// Far above any name that Git takes.
const MAX_REVISION_LEN: usize = 255;

/// `name` or `organisation/name`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ModelId(String);

impl ModelId {
    pub(super) fn parse(id: &str) -> Result<Self, HubError> {
        let part = |part: &str| {
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
            let edge = |byte: Option<&u8>| byte.is_some_and(|byte| !b".-".contains(byte));
            let bytes = part.as_bytes();
            part.bytes().all(plain)
                && edge(bytes.first())
                && edge(bytes.last())
                // The cache joins parts with two dashes.
                && !part.contains("--")
                && !part.contains("..")
        };
        let ok = id.len() <= MAX_ID_LEN && id.split('/').count() <= 2 && id.split('/').all(part);
        if ok { Ok(Self(id.to_owned())) } else { Err(HubError::NotAnId { id: id.to_owned() }) }
    }

    /// The folder of the cache.
    pub(super) fn folder(&self) -> String {
        format!("models--{}", self.0.replace('/', "--"))
    }
}

impl fmt::Display for ModelId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A branch, a tag, `refs/pr/1`, or a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Revision(String);

impl Revision {
    pub(super) fn parse(id: &ModelId, revision: &str) -> Result<Self, HubError> {
        let part = |part: &str| !part.is_empty() && !part.starts_with('.');
        let plain = |c: char| !c.is_control() && !c.is_whitespace() && !"\\:?*[~^".contains(c);
        let ok = revision.len() <= MAX_REVISION_LEN
            && revision.chars().all(plain)
            && revision.split('/').all(part);
        if ok {
            Ok(Self(revision.to_owned()))
        } else {
            Err(HubError::NotARevision { id: id.to_string(), revision: revision.to_owned() })
        }
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    pub(super) fn is_commit(&self) -> bool {
        is_commit(&self.0)
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whether this is a Git object's name in full.
pub(super) fn is_commit(text: &str) -> bool {
    text.len() == 40 && is_lower_hex(text)
}

pub(super) fn is_lower_hex(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(id: &str, folder: Option<&str>) {
        assert_eq!(ModelId::parse(id).ok().map(|id| id.folder()).as_deref(), folder, "{id:?}");
    }

    #[test]
    fn ids_are_names_not_paths() {
        check("gpt2", Some("models--gpt2"));
        check("facebook/opt-125m", Some("models--facebook--opt-125m"));
        check("Qwen/Qwen2.5_0.5B", Some("models--Qwen--Qwen2.5_0.5B"));
        for wrong in ["", "/", "a/", "/a", "a/b/c", "..", "../a", "a/..", ".a", "a.", "-a", "a--b"]
        {
            check(wrong, None);
        }
        for wrong in ["a b", "a\\b", "a/b?c", "a\0b", "ä/b", &"a".repeat(97)] {
            check(wrong, None);
        }
    }

    #[test]
    fn revisions_stay_in_their_folder() {
        let id = ModelId::parse("a/b").unwrap();
        let ok = |text: &str| Revision::parse(&id, text).is_ok();
        assert!(ok("main") && ok("refs/pr/1") && ok("v1.0") && ok(&"0f".repeat(20)));
        for wrong in ["", "/", "..", "a/../b", "/etc", "a//b", "a b", "a\nb", ".hidden", "a?b"] {
            assert!(!ok(wrong), "{wrong:?}");
        }
    }
}
