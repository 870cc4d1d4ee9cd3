//! A nudge says "look again", nothing more: whoever misses one finds the same in the database later.

use tokio::sync::watch;

/// Wakes every loop of this process that looks at the database. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Nudge(watch::Sender<()>);

impl Default for Nudge {
    fn default() -> Self {
        Self(watch::Sender::new(()))
    }
}

impl Nudge {
    /// Wakes all listeners because something changed.
    pub fn all(&self) {
        self.0.send_replace(());
    }

    /// A listener; it wakes for nudges that come after this call.
    pub fn listen(&self) -> Nudged {
        Nudged(self.0.subscribe())
    }
}

/// One listener's end.
#[derive(Debug)]
pub struct Nudged(watch::Receiver<()>);

impl Nudged {
    /// Waits for a nudge, but no longer than `at_most`.
    pub async fn within(&mut self, at_most: std::time::Duration) {
        // Both ends of the wait mean the same: look now. The sender lives as long as the process.
        let _ = tokio::time::timeout(at_most, self.0.changed()).await;
    }
}
