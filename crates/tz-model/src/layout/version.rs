//! Versions of vLLM, as far as layouts depend on them. Owns [`VllmVersion`].

use std::fmt;
use std::str::FromStr;

/// A release of vLLM, such as `0.33.0`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VllmVersion {
    major: u32,
    minor: u32,
    patch: u32,
}

impl VllmVersion {
    /// The newest release whose layout was checked; later ones are taken to be the same.
    pub const NEWEST_KNOWN: Self = Self::new(0, 33, 0);

    /// The first release after those in which tied output heads were checked to have the old form.
    pub(crate) const UNCHECKED: Self = Self::new(0, 27, 0);

    /// The first release in which tied output heads were checked to have the new form.
    pub(crate) const UNTIES: Self = Self::new(0, 30, 0);

    /// A release by its numbers.
    #[must_use]
    pub const fn new(major: u32, minor: u32, patch: u32) -> Self {
        Self { major, minor, patch }
    }
}

impl fmt::Display for VllmVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

/// The text is not a version such as `0.33.0`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a version of vLLM, such as 0.33.0")]
pub struct NotAVersion(String);

impl FromStr for VllmVersion {
    type Err = NotAVersion;

    /// Takes `0.33`, `0.33.0` and `v0.33.0`.
    fn from_str(text: &str) -> Result<Self, NotAVersion> {
        let fail = || NotAVersion(text.to_owned());
        let numbers = text
            .strip_prefix('v')
            .unwrap_or(text)
            .split('.')
            .map(|part| {
                let digits = part.bytes().all(|byte| byte.is_ascii_digit());
                part.parse().ok().filter(|_| digits).ok_or_else(fail)
            })
            .collect::<Result<Vec<u32>, _>>()?;
        match *numbers.as_slice() {
            [major, minor] => Ok(Self::new(major, minor, 0)),
            [major, minor, patch] => Ok(Self::new(major, minor, patch)),
            _ => Err(fail()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts() {
        for (text, expect) in [
            ("0.33.0", Some("0.33.0")),
            ("v0.9.2", Some("0.9.2")),
            ("0.26", Some("0.26.0")),
            ("1", None),
            ("0.33.0.1", None),
            ("0.+3", None),
            ("0.33.0rc1", None),
            ("", None),
        ] {
            let found = text.parse::<VllmVersion>().map(|version| version.to_string());
            assert_eq!(found.ok().as_deref(), expect, "{text}");
        }
        assert!(VllmVersion::new(0, 9, 2) < VllmVersion::new(0, 10, 1));
    }
}
