//! Logs: on standard error, for people or as one JSON object a line.

use crate::settings::{SettingsError, Sources};
use std::io::IsTerminal;
use tracing_subscriber::{EnvFilter, Layer, Registry, layer::SubscriberExt, util::SubscriberInitExt};

/// What is logged unless told otherwise: the libraries' daily noise is not.
pub const DEFAULT_FILTER: &str = "info,russh=warn,sqlx=warn";

/// How a line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// For people.
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

/// Starts logging as `ORION_LOG` (else `RUST_LOG`) and `ORION_LOG_FORMAT` say.
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
    let lines: Box<dyn Layer<Registry> + Send + Sync> = match format {
        LogFormat::Pretty => Box::new(
            tracing_subscriber::fmt::layer()
                .with_ansi(std::io::stderr().is_terminal())
                .with_writer(std::io::stderr)
                .with_filter(filter),
        ),
        LogFormat::Json => Box::new(
            tracing_subscriber::fmt::layer()
                .json()
                .flatten_event(true)
                .with_current_span(false)
                .with_span_list(true)
                .with_writer(std::io::stderr)
                .with_filter(filter),
        ),
    };
    // A second call in one process (tests) keeps the first.
    let _ = Registry::default().with(lines).try_init();
    for doubtful in sources.doubtful_variables() {
        tracing::warn!("{doubtful}");
    }
    Ok(())
}
