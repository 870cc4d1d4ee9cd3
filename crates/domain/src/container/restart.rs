//! What the engine does when a container ends.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::{fmt, str::FromStr};

/// Restart policy of a container, carried out by the engine. Written as Docker writes it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RestartPolicy {
    /// `no`: it stays ended.
    #[default]
    No,
    /// `on-failure`, `on-failure:N`: it is started again after a failure, at most so often.
    OnFailure {
        /// Largest number of restarts.
        retries_max: u16,
    },
    /// `always`.
    Always,
    /// `unless-stopped`.
    UnlessStopped,
}

impl RestartPolicy {
    /// Restarts of `on-failure` without a number. A container that cannot work does not start for ever.
    pub const RETRIES_DEFAULT: u16 = 5;
    /// Largest number that `on-failure` takes.
    pub const RETRIES_MAX: u16 = 100;

    /// Returns the policy's name without its number.
    pub const fn name(self) -> &'static str {
        match self {
            Self::No => "no",
            Self::OnFailure { .. } => "on-failure",
            Self::Always => "always",
            Self::UnlessStopped => "unless-stopped",
        }
    }
}

impl fmt::Display for RestartPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OnFailure { retries_max } => write!(f, "on-failure:{retries_max}"),
            Self::No | Self::Always | Self::UnlessStopped => f.write_str(self.name()),
        }
    }
}

impl FromStr for RestartPolicy {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "no" => return Ok(Self::No),
            "always" => return Ok(Self::Always),
            "unless-stopped" => return Ok(Self::UnlessStopped),
            "on-failure" => return Ok(Self::OnFailure { retries_max: Self::RETRIES_DEFAULT }),
            _ => {}
        }
        let number = text.strip_prefix("on-failure:").and_then(|number| number.parse().ok());
        match number {
            Some(retries_max) if (1..=Self::RETRIES_MAX).contains(&retries_max) => {
                Ok(Self::OnFailure { retries_max })
            }
            Some(_) | None => Err(format!(
                "is none of no, on-failure, on-failure:N (N from 1 to {}), always and unless-stopped",
                Self::RETRIES_MAX
            )),
        }
    }
}

impl Serialize for RestartPolicy {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for RestartPolicy {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_is_written_as_it_is_read() {
        for text in ["no", "always", "unless-stopped", "on-failure:1", "on-failure:100"] {
            assert_eq!(text.parse::<RestartPolicy>().map(|policy| policy.to_string()), Ok(text.to_owned()));
        }
        assert_eq!("on-failure".parse::<RestartPolicy>().unwrap().to_string(), "on-failure:5");
        for wrong in
            ["", "No", "never", "on-failure:", "on-failure:0", "on-failure:101", "on-failure:x", "always:3"]
        {
            assert!(wrong.parse::<RestartPolicy>().is_err(), "{wrong}");
        }
    }
}
