//! Names inside of a container's specification.

use crate::names::text;
use serde::Serialize;
use std::str::FromStr;

/// Name that a tenant gives a container of a lease, in place of its number; also its host name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct ContainerName(String);
text!(ContainerName);

impl FromStr for ContainerName {
    type Err = String;
    /// 1 to 40 characters of `a-z 0-9 -`, the first a letter, the last no hyphen.
    fn from_str(text: &str) -> Result<Self, String> {
        let safe = text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
        let is_letter = |c: char| c.is_ascii_lowercase();
        if text.len() > 40 || !safe || !text.starts_with(is_letter) || text.ends_with('-') {
            return Err(
                "has 1 to 40 characters of a-z, 0-9 and -, begins with a letter and does not end with -"
                    .into(),
            );
        }
        Ok(Self(text.into()))
    }
}

/// Name of an environment variable.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct EnvName(String);
text!(EnvName);

impl FromStr for EnvName {
    type Err = String;
    /// 1 to 128 characters of letters, digits and `_ . -`, the first no digit.
    fn from_str(text: &str) -> Result<Self, String> {
        let safe = text.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c));
        let first = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
        if text.len() > 128 || !safe || !first {
            return Err(
                "has names of 1 to 128 letters, digits and _ . -, that begin with a letter or _".into()
            );
        }
        Ok(Self(text.into()))
    }
}

/// Absolute path of a file in a container, without `.` and `..`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct FilePath(String);
text!(FilePath);

/// Directories of the kernel's own file systems: what is put there before the start is hidden after it.
const HIDDEN: &[&str] = &["proc", "sys", "dev"];

impl FilePath {
    /// Returns the path as a tar archive for `/` names it.
    pub fn in_archive(&self) -> &str {
        self.0.trim_start_matches('/')
    }
}

impl FromStr for FilePath {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let Some(relative) = text.strip_prefix('/') else {
            return Err(format!("has the path {text:?}; a path is absolute, such as /etc/app.conf"));
        };
        if text.len() > 255 || text.chars().any(char::is_control) {
            return Err("has a path that is longer than 255 bytes or contains control characters".into());
        }
        if relative.split('/').any(|part| matches!(part, "" | "." | "..")) {
            return Err(format!("has the path {text:?}; it must not contain . or .. or an empty part"));
        }
        if relative.split('/').next().is_some_and(|first| HIDDEN.contains(&first)) {
            return Err(format!("has the path {text:?}; nothing can be put below /proc, /sys and /dev"));
        }
        Ok(Self(text.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_paths_outside_of_their_rules_are_refused() {
        let long = "a".repeat(300);
        for wrong in ["", "A", "1a", "a_b", "a-", "-a", "a b", "a.b", &long] {
            assert!(wrong.parse::<ContainerName>().is_err(), "{wrong:?}");
        }
        assert!("web-1".parse::<ContainerName>().is_ok());
        for wrong in ["", "1A", "A=B", "A B", "A\nB", "é", &long] {
            assert!(wrong.parse::<EnvName>().is_err(), "{wrong:?}");
        }
        assert!("_My.var-1".parse::<EnvName>().is_ok());
        let long = format!("/{long}");
        for wrong in [
            "",
            "/",
            "a",
            "../a",
            "/../a",
            "/a/..",
            "/a/../b",
            "/a/./b",
            "/a//b",
            "/a/",
            "/a\nb",
            "/a\0b",
            "/proc/x",
            "/dev/null",
            "/sys",
            &long,
        ] {
            assert!(wrong.parse::<FilePath>().is_err(), "{wrong:?}");
        }
        assert_eq!("/etc/a b.conf".parse::<FilePath>().unwrap().in_archive(), "etc/a b.conf");
        assert!("/..a/b..".parse::<FilePath>().is_ok() && "/devices".parse::<FilePath>().is_ok());
    }
}
