//! Ctrl-C: noticed, so that everything can be torn down.

use orion_console::{Failure, Outcome, failed_to};
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    flag,
};
use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicBool, Ordering},
};

static CAME: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// Makes signals to end set [`came`] instead of ending this process.
///
/// # Errors
/// When the system refuses.
pub fn watch() -> Outcome {
    let came = CAME.get_or_init(Arc::default);
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        flag::register(signal, Arc::clone(came)).map_err(failed_to("watch for Ctrl-C"))?;
    }
    Ok(())
}

/// Whether we were told to end.
pub fn came() -> bool {
    CAME.get().is_some_and(|came| came.load(Ordering::Relaxed))
}

/// An error when we were told to end.
///
/// # Errors
/// Then.
pub fn check() -> Outcome {
    if came() { Err(Failure::new("interrupted")) } else { Ok(()) }
}
