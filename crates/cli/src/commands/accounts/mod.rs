//! Accounts: the caller's own session, those of others, and join tokens.

pub mod session;
pub mod tokens;
pub mod users;
