//! Why a container ended, in words.

use serde::{Deserialize, Serialize};
use std::fmt;

/// End of a container, as its engine reports it. `Display` gives the words for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerExit {
    /// Exit code; 128 and the signal's number where a signal ended it.
    pub code: i64,
    /// Whether the kernel killed a process of the container because of its memory limit.
    pub oom_killed: bool,
    /// The engine's own error, where the command could not be started; else empty.
    pub error: String,
}

impl ContainerExit {
    /// Returns the number of the signal that ended the container.
    pub fn signal(&self) -> Option<u8> {
        u8::try_from(self.code - 128).ok().filter(|signal| (1..=64).contains(signal))
    }

    /// Returns whether the container did what it was started for.
    pub fn is_success(&self) -> bool {
        self.code == 0 && !self.oom_killed && self.error.is_empty()
    }
}

impl fmt::Display for ContainerExit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.error.is_empty() {
            return write!(f, "could not be started: {}", self.error);
        }
        // The kernel may have killed a child only, and the container ended later by itself.
        if self.oom_killed && self.code != 0 {
            return write!(f, "out of memory (exit code {})", self.code);
        }
        match self.signal() {
            Some(signal) => write!(f, "killed by signal {signal}"),
            None => write!(f, "exited with {}", self.code),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(code: i64, oom_killed: bool, error: &str) -> String {
        ContainerExit { code, oom_killed, error: error.into() }.to_string()
    }

    #[test]
    fn each_end_of_a_container_has_its_words() {
        assert_eq!(words(0, false, ""), "exited with 0");
        assert_eq!(words(3, false, ""), "exited with 3");
        assert_eq!(words(137, false, ""), "killed by signal 9");
        assert_eq!(words(143, false, ""), "killed by signal 15");
        assert_eq!(words(137, true, ""), "out of memory (exit code 137)");
        assert_eq!(words(0, true, ""), "exited with 0");
        assert_eq!(words(128, false, ""), "exited with 128");
        assert_eq!(words(255, false, ""), "exited with 255");
        assert_eq!(words(-1, false, ""), "exited with -1");
        assert_eq!(
            words(127, false, "exec: \"x\": not found"),
            "could not be started: exec: \"x\": not found"
        );
    }
}
