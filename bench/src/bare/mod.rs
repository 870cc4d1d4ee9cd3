//! What one would write by hand in place of Orion: the same statements without the store, the same routes
//! without the API. Floors, nothing else: no state machine, no authorization, no retries beyond deadlocks.

pub mod api;
pub mod claims;
pub mod rows;
