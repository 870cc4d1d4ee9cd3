//! The crate against a real sshd, and against small fakes for what a real one does too rarely.

#![expect(clippy::unwrap_used, reason = "a helper of a test panics like the test itself")]

mod fakes;
mod frozen_and_lost;
mod meanings;
mod pooled;
mod sshd;
mod streams;
mod trust;
