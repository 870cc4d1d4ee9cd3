//! One container: made, looked at, stopped, removed. Starting is a playbook's work.

use super::{
    Engine, create,
    inventory::{gone, state_of},
};
use crate::{
    ContainerPlacement, EngineError, archive,
    http::{Body, Call, escaped, shortened},
};
use bytes::Bytes;
use hyper::Method;
use orion_domain::container::{
    CONTAINER_LABEL, ContainerExit, ContainerSpec, EPOCH_LABEL, EngineState, LEASE_LABEL, RestartPolicy,
    SpecFile, container_name,
};
use serde::Deserialize;
use serde_json::json;
use std::{collections::HashMap, time::Duration};
use tokio::time::{Instant, sleep};

/// Making a container: its layer on a slow disk.
const CREATE_LIMIT: Duration = Duration::from_secs(30);
/// Removing one by force, with all that it wrote.
const REMOVE_LIMIT: Duration = Duration::from_secs(60);
/// Time that an engine may take beyond the grace of a stop.
const STOP_MORE: Duration = Duration::from_secs(20);
const FILES_LIMIT: Duration = Duration::from_secs(30);

/// A container that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreatedContainer {
    /// The engine's id.
    pub id: String,
    /// Warnings of the engine, such as that a limit is not supported by its kernel.
    pub warnings: Vec<String>,
}

/// A container as its engine sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerState {
    /// The engine's id.
    pub id: String,
    /// Name, without the leading `/`.
    pub name: String,
    /// Label with the lease's ULID.
    pub lease: Option<String>,
    /// Label with the container's ULID.
    pub container: Option<String>,
    /// Label with the incarnation.
    pub epoch: Option<u64>,
    /// State as the engine tells it.
    pub state: EngineState,
    /// End of its last run; none where it never ended.
    pub exit: Option<ContainerExit>,
    /// Start of its last run, in the engine's words (RFC 3339); none where it was never started.
    pub started_at: Option<String>,
    /// End of its last run, in the same form.
    pub finished_at: Option<String>,
    /// Number of restarts by the engine.
    pub restarts: u32,
    /// Id of the image that it was made from.
    pub image: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Inspected {
    id: String,
    name: String,
    #[serde(default)]
    restart_count: u32,
    image: String,
    state: State,
    config: Config,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct State {
    status: String,
    #[serde(default, rename = "OOMKilled")]
    oom_killed: bool,
    #[serde(default)]
    exit_code: i64,
    #[serde(default)]
    error: String,
    started_at: Option<String>,
    finished_at: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Config {
    labels: Option<HashMap<String, String>>,
}

/// An engine says "never" by the year 1.
fn at(time: Option<String>) -> Option<String> {
    time.filter(|time| !time.is_empty() && !time.starts_with("0001-"))
}

impl TryFrom<Inspected> for ContainerState {
    type Error = EngineError;
    fn try_from(found: Inspected) -> Result<Self, EngineError> {
        let label = |name: &str| found.config.labels.as_ref().and_then(|labels| labels.get(name)).cloned();
        let finished_at = at(found.state.finished_at);
        let has_ended = finished_at.is_some() || !found.state.error.is_empty();
        let exit = ContainerExit {
            code: found.state.exit_code,
            oom_killed: found.state.oom_killed,
            error: shortened(&found.state.error),
        };
        Ok(Self {
            name: found.name.trim_start_matches('/').to_owned(),
            lease: label(LEASE_LABEL),
            container: label(CONTAINER_LABEL),
            epoch: label(EPOCH_LABEL).and_then(|epoch| epoch.parse().ok()),
            state: state_of(&found.state.status)?,
            exit: has_ended.then_some(exit),
            started_at: at(found.state.started_at),
            finished_at,
            restarts: found.restart_count,
            image: found.image,
            id: found.id,
        })
    }
}

fn path(id: &str, rest: &str) -> String {
    format!("/containers/{}{rest}", escaped(id))
}

impl Engine {
    /// Makes a container, stopped, and puts its files into it. One of this name that was made for the same incarnation
    /// is taken over: the reply to an earlier request may have been lost.
    ///
    /// # Errors
    /// [`EngineError::NotFound`]: the image is not on the node. [`EngineError::Conflict`]: the name is another's.
    pub async fn create(
        &self,
        spec: &ContainerSpec,
        placement: &ContainerPlacement,
    ) -> Result<CreatedContainer, EngineError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Created {
            id: String,
            warnings: Option<Vec<String>>,
        }
        let name = container_name(placement.lease, placement.number);
        let call = Call::post(format!("/containers/create?name={}", escaped(&name)), "create container");
        let asked = self.ask::<Created>(call.json(create::body(spec, placement)).within(CREATE_LIMIT)).await;
        let created = match asked {
            Ok(created) => {
                CreatedContainer { id: created.id, warnings: created.warnings.unwrap_or_default() }
            }
            Err(EngineError::Conflict(message)) => self.earlier(&name, placement, message).await?,
            Err(error) => return Err(error),
        };
        self.put_files(&created.id, &spec.files).await?;
        Ok(created)
    }

    async fn earlier(
        &self,
        name: &str,
        placement: &ContainerPlacement,
        message: String,
    ) -> Result<CreatedContainer, EngineError> {
        let there = self.inspect(name).await?;
        let is_same = there.container.as_ref() == Some(&placement.container_ulid)
            && there.lease.as_ref() == Some(&placement.lease_ulid)
            && there.epoch == Some(placement.epoch)
            && there.state == EngineState::Created;
        if !is_same {
            return Err(EngineError::Conflict(message));
        }
        Ok(CreatedContainer { id: there.id, warnings: Vec::new() })
    }

    /// Puts files into a container.
    ///
    /// # Errors
    /// [`EngineError::Invalid`] where a directory of a path is a file in the image.
    pub async fn put_files(&self, id: &str, files: &[SpecFile]) -> Result<(), EngineError> {
        if files.is_empty() {
            return Ok(());
        }
        let Some(archive) = archive::of_files(files) else {
            return Err(EngineError::Invalid("a path of files is too long for an archive".into()));
        };
        let mut call = Call::new(Method::PUT, path(id, "/archive?path=%2F"), "put files").within(FILES_LIMIT);
        call.body = Body::Tar(Bytes::from(archive));
        self.call(call).await.map(drop)
    }

    /// Returns the state of a container, by its id or name.
    ///
    /// # Errors
    /// [`EngineError::NotFound`] where there is none.
    pub async fn inspect(&self, id: &str) -> Result<ContainerState, EngineError> {
        self.ask::<Inspected>(Call::get(path(id, "/json"), "inspect container")).await?.try_into()
    }

    /// Stops a container: SIGTERM (or the image's own signal), and SIGKILL after the grace. One that has ended is fine.
    ///
    /// # Errors
    /// [`EngineError::NotFound`] where there is none.
    pub async fn stop(&self, id: &str, grace: Duration) -> Result<(), EngineError> {
        let call = Call::post(path(id, &format!("/stop?t={}", grace.as_secs())), "stop container");
        self.call(call.within(grace + STOP_MORE)).await.map(drop)
    }

    /// Gives a container another restart policy. With [`RestartPolicy::No`] what is stopped, or ends, stays so, also when
    /// the engine starts again, which runs what was stopped with `always`, and after a crash not even all with
    /// `unless-stopped`.
    ///
    /// # Errors
    /// [`EngineError::NotFound`] where there is none.
    pub async fn set_restart(&self, id: &str, policy: RestartPolicy) -> Result<(), EngineError> {
        let policy = json!({ "RestartPolicy": create::restart_policy(policy) });
        self.call(Call::post(path(id, "/update"), "update container").json(policy)).await.map(drop)
    }

    /// Removes a container by force, running or not, with its anonymous volumes; returns when it is gone.
    ///
    /// # Errors
    /// [`EngineError::Failed`] where it cannot be removed; [`EngineError::TimedOut`] where it is still there.
    pub async fn remove(&self, id: &str) -> Result<(), EngineError> {
        let until = Instant::now() + REMOVE_LIMIT;
        loop {
            let call = Call::delete(path(id, "?force=1&v=1"), "remove container").within(REMOVE_LIMIT);
            match gone(self.call(call).await.map(drop)) {
                // Somebody else removes it at this moment.
                Err(EngineError::Conflict(_)) if Instant::now() < until => {
                    sleep(Duration::from_millis(100)).await;
                }
                Err(EngineError::Conflict(_)) => return Err(EngineError::TimedOut("remove container")),
                other => return other,
            }
        }
    }
}
