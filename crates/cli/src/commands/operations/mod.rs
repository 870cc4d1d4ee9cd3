//! The system as a whole.

pub mod brake;
pub mod status;
