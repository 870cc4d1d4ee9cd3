//! Logs: on standard error, for people or as one JSON object a line.

use crate::{
    settings::{SettingsError, Sources},
    traces,
};
use std::{
    io::IsTerminal,
    path::{Path, PathBuf},
};
use tracing::Subscriber;
use tracing_subscriber::{
    EnvFilter, Layer, Registry,
    fmt::MakeWriter,
    layer::{Layered, SubscriberExt},
    registry::LookupSpan,
    util::SubscriberInitExt,
};

/// Log filter unless another one is set: omits the routine messages of the libraries.
pub const DEFAULT_FILTER: &str = "info,russh=warn,sqlx=warn";

/// Format of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// Text for people.
    #[default]
    Pretty,
    /// One JSON object a line, with the fields of the spans around it.
    Json,
}

impl std::str::FromStr for LogFormat {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "pretty" => Ok(Self::Pretty),
            "json" => Ok(Self::Json),
            other => Err(format!("'{other}' is neither `pretty` nor `json`")),
        }
    }
}

/// Returns the name of this process in traces: the name of its program.
fn service() -> String {
    let program = std::env::args_os().next().map(PathBuf::from);
    let name = program.as_deref().and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned());
    name.unwrap_or_else(|| "orion".to_owned())
}

/// One JSON object a line: the event's own fields beside `timestamp`, `level` and `message`, and in `spans` those
/// of what it happened in. A request's span has `request_id`; what is about a lease or a node has `lease`, `node`.
fn json_lines<S, W>(writer: W) -> impl Layer<S> + Send + Sync
where
    S: Subscriber + for<'span> LookupSpan<'span>,
    W: for<'writer> MakeWriter<'writer> + Send + Sync + 'static,
{
    tracing_subscriber::fmt::layer()
        .json()
        .flatten_event(true)
        .with_current_span(false)
        .with_span_list(true)
        .with_writer(writer)
}

/// Starts logging as `ORION_LOG` (else `RUST_LOG`) and `ORION_LOG_FORMAT` say, and tracing where
/// `ORION_OTLP_ENDPOINT` does; [`traces::stop`] ends that.
///
/// # Errors
/// A filter or a format that makes no sense.
pub fn start(sources: &Sources) -> Result<(), SettingsError> {
    let format = sources.get("log_format", str::parse::<LogFormat>)?.unwrap_or_default();
    let parse =
        |text: &str| EnvFilter::try_new(text).map_err(|error| format!("'{text}' is no filter: {error}"));
    let filter = match sources.get("log", parse)? {
        Some(filter) => filter,
        None => EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(DEFAULT_FILTER)),
    };
    // One filter for all layers, not one each: with filters of their own, layers miss events after a library
    // only asked whether a level is on (as sqlx does before it logs a statement).
    let lines: Box<dyn Layer<Layered<EnvFilter, Registry>> + Send + Sync> = match format {
        LogFormat::Pretty => Box::new(
            tracing_subscriber::fmt::layer()
                .with_ansi(std::io::stderr().is_terminal())
                .with_writer(std::io::stderr),
        ),
        LogFormat::Json => Box::new(json_lines(std::io::stderr)),
    };
    let traces = sources.get("otlp_endpoint", |endpoint| traces::layer(endpoint, &service()))?;
    // A second call in one process (tests) keeps the first.
    let _ = Registry::default().with(filter).with(lines).with(traces).try_init();
    for doubtful in sources.doubtful_variables() {
        tracing::warn!("{doubtful}");
    }
    Ok(())
}
