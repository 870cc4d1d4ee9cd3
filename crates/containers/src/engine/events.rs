//! The engine's own events of Orion's containers.

use super::{Engine, Pace};
use crate::{
    EngineError,
    http::{Call, JsonLines, escaped},
};
use orion_domain::container::{CONTAINER_LABEL, EPOCH_LABEL, LEASE_LABEL};
use serde::Deserialize;
use serde_json::json;
use std::collections::HashMap;

/// What happened to a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventAction {
    /// It was made.
    Created,
    /// It was started.
    Started,
    /// It ended, with this code.
    Ended {
        /// Exit code.
        code: Option<i64>,
    },
    /// The kernel killed a process of it because of its memory limit; its end comes as an event of its own.
    OutOfMemory,
    /// It was removed.
    Removed,
    /// Anything else: paused, renamed, an exec.
    Other,
}

/// An event of a container that has a label of Orion's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerEvent {
    /// What happened.
    pub action: EventAction,
    /// The engine's id of the container.
    pub id: String,
    /// Name of the container on its engine.
    pub name: String,
    /// ULID of the lease.
    pub lease: String,
    /// ULID of the container.
    pub container: Option<String>,
    /// Incarnation.
    pub epoch: Option<u64>,
    /// Time in nanoseconds since 1970, in the node's time.
    pub at_ns: i64,
}

/// A stream of events. It has to be read; after an error, list the containers and open it anew.
pub struct Events {
    lines: JsonLines,
}

impl std::fmt::Debug for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Events").finish_non_exhaustive()
    }
}

#[derive(Deserialize)]
struct Line {
    #[serde(rename = "Action", default)]
    action: String,
    #[serde(rename = "Actor")]
    actor: Option<Actor>,
    #[serde(rename = "timeNano", default)]
    at_ns: i64,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Actor {
    #[serde(rename = "ID")]
    id: String,
    attributes: Option<HashMap<String, String>>,
}

impl Events {
    /// Returns the next event; none when the engine stopped.
    pub async fn next(&mut self) -> Option<Result<ContainerEvent, EngineError>> {
        loop {
            match self.lines.next::<Line>().await? {
                Err(error) => return Some(Err(error)),
                Ok(line) => {
                    if let Some(event) = read(line) {
                        return Some(Ok(event));
                    }
                }
            }
        }
    }
}

fn read(line: Line) -> Option<ContainerEvent> {
    let actor = line.actor?;
    let mut attributes = actor.attributes.unwrap_or_default();
    let code = attributes.get("exitCode").and_then(|code| code.parse().ok());
    let action = match line.action.as_str() {
        "create" => EventAction::Created,
        "start" => EventAction::Started,
        "die" | "died" => EventAction::Ended { code },
        "oom" => EventAction::OutOfMemory,
        "destroy" | "remove" => EventAction::Removed,
        _ => EventAction::Other,
    };
    Some(ContainerEvent {
        action,
        id: actor.id,
        lease: attributes.remove(LEASE_LABEL)?,
        container: attributes.remove(CONTAINER_LABEL),
        epoch: attributes.remove(EPOCH_LABEL).and_then(|epoch| epoch.parse().ok()),
        name: attributes.remove("name").unwrap_or_default(),
        at_ns: line.at_ns,
    })
}

impl Engine {
    /// Opens the stream of events of Orion's containers from now on, on the pooled session.
    ///
    /// # Errors
    /// See [`EngineError::meaning`].
    pub async fn events(&self) -> Result<Events, EngineError> {
        let filter = json!({ "type": ["container"], "label": [LEASE_LABEL] });
        let call = Call::get(format!("/events?filters={}", escaped(&filter.to_string())), "events");
        Ok(Events { lines: self.json_lines(&call, Pace::AtOnce).await? })
    }
}
