//! `status`: how Orion is: its parts, the brake, and each background task that fails or hangs.

use crate::{
    context::Context,
    error::{CliError, Kind},
    output::{self, Format},
};
use orion_domain::Timestamp;
use serde_json::Value;

/// Shows how Orion is.
///
/// # Errors
/// No API, or a part of Orion that is down.
pub async fn run(context: &Context) -> Result<(), CliError> {
    let client = if context.session.is_some() { context.client()? } else { context.anonymous()? };
    let health = client.health().await?;
    if context.format == Format::Json {
        output::json(&health)?;
    } else {
        output::data(&lines(context.now(), &health).join("\n"))?;
    }
    if health.get("status").and_then(Value::as_str) == Some("healthy") {
        return Ok(());
    }
    Err(CliError::new(Kind::Unavailable, "a part of Orion is down"))
}

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or("unknown")
}

fn since(now: Timestamp, value: &Value, pointer: &str) -> String {
    let at = value.pointer(pointer).and_then(Value::as_str).and_then(|at| at.parse::<Timestamp>().ok());
    at.map_or_else(|| "never".to_owned(), |at| output::moment(now, at))
}

/// Returns a line for each part, one for the brake, and one for each task that is not ok.
fn lines(now: Timestamp, health: &Value) -> Vec<String> {
    let database = output::printable(text(health, "/parts/database/status"));
    let scheduler = output::printable(text(health, "/parts/scheduler/status"));
    let last_pass = since(now, health, "/parts/scheduler/last_pass");
    let mut lines =
        vec![format!("database: {database}"), format!("scheduler: {scheduler}, last heard of {last_pass}")];
    let brake = match health.pointer("/brake/engaged").and_then(Value::as_bool) {
        Some(true) => format!("on: {}", output::printable(text(health, "/brake/reason"))),
        Some(false) => "off".to_owned(),
        None => "unknown".to_owned(),
    };
    lines.push(format!("brake: {brake}"));
    let tasks = health.get("tasks").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let mut bad = 0;
    for task in tasks.iter().filter(|task| text(task, "/state") != "ok") {
        bad += 1;
        lines.push(task_line(now, task));
    }
    if bad == 0 {
        lines.push(format!("tasks: {} ok", tasks.len()));
    }
    lines
}

fn task_line(now: Timestamp, task: &Value) -> String {
    let (name, state) = (output::printable(text(task, "/name")), output::printable(text(task, "/state")));
    let last_run = since(now, task, "/last_run");
    let detail = if text(task, "/state") == "hanging" {
        format!("its run began {}, the one before {last_run}", since(now, task, "/running_since"))
    } else {
        let failures = task.get("failures").and_then(Value::as_u64).unwrap_or(0);
        let error = task.get("error").and_then(Value::as_str).unwrap_or("an admin sees why");
        format!("{failures} runs in a row, the last {last_run}: {}", output::printable(error))
    };
    format!("task {name}: {state}, {detail}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn each_task_that_fails_or_hangs_has_a_line() {
        let now = "2026-11-21T14:50:00Z".parse().unwrap();
        let mut health = json!({
            "parts": {
                "database": { "status": "up" },
                "scheduler": { "status": "up", "last_pass": "2026-11-21T14:49:59Z" },
            },
            "brake": { "engaged": false, "since": null },
            "tasks": [
                { "name": "expire", "state": "failing", "failures": 3, "last_run": "2026-11-21T14:49:00Z",
                  "error": "no route" },
                { "name": "sweep", "state": "hanging", "running_since": "2026-11-21T14:40:00Z", "last_run": null },
                { "name": "drain", "state": "ok", "last_run": "2026-11-21T14:49:00Z" },
            ],
        });
        let told = lines(now, &health);
        assert_eq!(told.len(), 5, "{told:?}");
        assert!(told[3].starts_with("task expire: failing, 3 runs in a row, the last "), "{told:?}");
        assert!(told[3].ends_with(": no route"), "{told:?}");
        assert!(told[4].starts_with("task sweep: hanging, its run began "), "{told:?}");
        assert!(told[4].ends_with(", the one before never"), "{told:?}");
        health["tasks"] = json!([{ "name": "drain", "state": "ok" }]);
        let told = lines(now, &health);
        assert_eq!(told[2..], ["brake: off", "tasks: 1 ok"]);
    }
}
