//! What is seen of a container while its image is pulled: a bar on a terminal, a line for each step elsewhere.

use crate::{
    client::Client,
    error::CliError,
    model::{Container, shape},
    output::{Progress, bytes},
};
use serde_json::Value;
use std::{convert::Infallible, time::Duration};
use tokio::time::sleep;

/// Pause before the first look: what is on the node runs by then.
const FIRST_LOOK: Duration = Duration::from_secs(1);
/// Pause between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(700);
/// Characters of a bar.
const BAR_WIDTH: u64 = 24;

/// The container that is looked at.
pub struct Watch<'a> {
    client: &'a Client,
    /// Path of the lease's containers.
    path: String,
    name: Option<String>,
    progress: Progress,
}

impl<'a> Watch<'a> {
    /// Looks at a container of the lease at `path`, by its name where it was given one.
    pub fn new(client: &'a Client, path: &str, name: Option<String>) -> Self {
        Self { client, path: path.to_owned(), name, progress: Progress::new() }
    }

    /// Shows how far it is, until dropped. A look that fails is tried again: the request itself says what is wrong.
    pub async fn show(&mut self) -> Infallible {
        sleep(FIRST_LOOK).await;
        loop {
            if let Ok(reply) = self.client.get(&self.path).await
                && let Ok(containers) = shape::<Vec<Container>>(&reply, "containers")
            {
                let is_it = |one: &&Container| match &self.name {
                    Some(name) => one.name == *name,
                    None => !is_settled(one),
                };
                // Without a name it is the newest of those that wait.
                if let Some(container) = containers.iter().rev().find(is_it) {
                    let (stage, detail) = (stage(container), detail(container));
                    self.progress.show(&stage, &detail);
                }
            }
            sleep(LOOK_EVERY).await;
        }
    }

    /// Shows how far the container of `reply` is, and returns the reply when it runs, has ended, or cannot be started.
    ///
    /// # Errors
    /// Those of the API.
    pub async fn until_settled(&mut self, mut reply: Value) -> Result<Value, CliError> {
        loop {
            let container: Container = shape(&reply, "container")?;
            if is_settled(&container) {
                return Ok(reply);
            }
            self.progress.show(&stage(&container), &detail(&container));
            sleep(LOOK_EVERY).await;
            reply =
                self.client.get(&format!("{}/{}", self.path, crate::client::escape(&container.name))).await?;
        }
    }
}

fn is_settled(container: &Container) -> bool {
    !matches!(container.state.as_str(), "pending" | "pulling")
}

fn stage(container: &Container) -> String {
    container
        .step
        .clone()
        .or_else(|| container.state_reason.clone())
        .unwrap_or_else(|| "is being made".into())
}

/// `[=======>      ] 12.0 MB of 48.5 MB`
fn detail(container: &Container) -> String {
    match (container.bytes_done, container.bytes_total) {
        (Some(done), Some(total)) if total > 0 => {
            let filled = (u128::from(done.min(total)) * u128::from(BAR_WIDTH) / u128::from(total))
                .min(BAR_WIDTH.into());
            let filled = usize::try_from(filled).unwrap_or_default();
            let head = if done < total { ">" } else { "=" };
            let bar = format!("{}{head}", "=".repeat(filled.saturating_sub(1)));
            let width = usize::try_from(BAR_WIDTH).unwrap_or_default();
            format!("[{bar:width$}] {} of {}", bytes(done), bytes(total))
        }
        (Some(done), _) if done > 0 => bytes(done),
        (Some(_) | None, _) => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_bar_is_as_full_as_the_bytes_that_are_there() {
        let shown = |done: Option<u64>, total: Option<u64>| {
            let value = json!({ "name": "web", "state": "pulling", "image": "a", "bytes_done": done, "bytes_total": total });
            detail(&shape::<Container>(&value, "container").unwrap())
        };
        assert_eq!(shown(Some(0), Some(1_000)), "[>                       ] 0 B of 1.0 kB");
        assert_eq!(shown(Some(500), Some(1_000)), "[===========>            ] 500 B of 1.0 kB");
        assert_eq!(shown(Some(1_000), Some(1_000)), "[========================] 1.0 kB of 1.0 kB");
        assert_eq!(shown(Some(u64::MAX), Some(u64::MAX)).matches('=').count(), 24);
        assert_eq!(
            (shown(Some(7), None), shown(None, None), shown(Some(0), Some(0))),
            ("7 B".into(), String::new(), String::new())
        );
    }
}
