//! Traces, for those who collect them: what happened within a request and on a node, sent to an OTLP collector over
//! HTTP.
//!
//! Lives here: the way to the collector. Does not live here: the spans, which are made where the work is, and which
//! of them are made (`ORION_LOG`). A collector that is away costs nobody anything: what does not fit the queue is
//! dropped.

use opentelemetry::trace::TracerProvider as _;
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::{Resource, trace::SdkTracerProvider};
use std::{
    pin::Pin,
    sync::{
        OnceLock,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::runtime::{Builder, Runtime};
use tracing::Subscriber;
use tracing_subscriber::{Layer, filter::filter_fn, registry::LookupSpan};

/// Path at which collectors accept traces.
const PATH: &str = "/v1/traces";
/// Time limit of one batch.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Provider with the spans that must be sent before the process ends.
static PROVIDER: OnceLock<SdkTracerProvider> = OnceLock::new();

/// A layer that sends Orion's own spans to the collector at `endpoint`.
///
/// # Errors
/// An endpoint that is no address, or a client that cannot be made.
pub(crate) fn layer<S>(endpoint: &str, service: &str) -> Result<impl Layer<S> + Send + Sync + use<S>, String>
where
    S: Subscriber + for<'span> LookupSpan<'span> + Send + Sync,
{
    let exporter = SpanExporter::builder()
        .with_http()
        .with_http_client(Collector::new()?)
        .with_protocol(Protocol::HttpBinary)
        .with_endpoint(address(endpoint)?)
        .build()
        .map_err(|error| error.to_string())?;
    let resource = Resource::builder().with_service_name(service.to_owned()).build();
    let provider = SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource).build();
    let tracer = provider.tracer("orion");
    let _ = PROVIDER.set(provider);
    // Not those of the libraries: sending spans would make spans.
    let own = filter_fn(|metadata| metadata.target().starts_with("orion"));
    Ok(tracing_opentelemetry::layer().with_tracer(tracer).with_filter(own))
}

/// Sends what is left; blocks for as long as a batch may take. Nothing is sent afterwards.
pub fn stop() {
    if let Some(provider) = PROVIDER.get()
        && let Err(error) = provider.shutdown()
    {
        tracing::debug!(%error, "the last traces were not sent");
    }
}

fn address(endpoint: &str) -> Result<String, String> {
    let url: reqwest::Url = endpoint
        .parse()
        .map_err(|error| format!("'{endpoint}' is no address, such as http://127.0.0.1:4318: {error}"))?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
        return Err(format!("'{endpoint}' is no http:// or https:// address, such as http://127.0.0.1:4318"));
    }
    let base = endpoint.trim_end_matches('/');
    Ok(if base.ends_with(PATH) { base.to_owned() } else { format!("{base}{PATH}") })
}

/// The exporter has a thread of its own and no runtime: this one is for its requests alone.
struct Collector {
    runtime: Runtime,
    client: reqwest::Client,
    is_away: AtomicBool,
}

impl std::fmt::Debug for Collector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Collector")
    }
}

impl Collector {
    fn new() -> Result<Self, String> {
        // It only fails where one is installed already, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let runtime =
            Builder::new_multi_thread().worker_threads(1).thread_name("orion-traces").enable_all().build();
        let client =
            reqwest::Client::builder().timeout(TIMEOUT).redirect(reqwest::redirect::Policy::none()).build();
        Ok(Self {
            runtime: runtime.map_err(|error| error.to_string())?,
            client: client.map_err(|error| error.to_string())?,
            is_away: AtomicBool::new(false),
        })
    }

    /// Says once that the collector is away, and once that it is back.
    fn note(&self, problem: Option<String>) {
        match (problem, self.is_away.load(Relaxed)) {
            (Some(problem), false) => {
                self.is_away.store(true, Relaxed);
                tracing::warn!(problem, "the collector of traces (ORION_OTLP_ENDPOINT) does not take them");
            }
            (None, true) => {
                self.is_away.store(false, Relaxed);
                tracing::info!("the collector of traces takes them again");
            }
            (Some(_), true) | (None, false) => {}
        }
    }
}

async fn send(client: reqwest::Client, request: Request<Bytes>) -> Result<Response<Bytes>, reqwest::Error> {
    let (head, body) = request.into_parts();
    let reply =
        client.request(head.method, head.uri.to_string()).headers(head.headers).body(body).send().await?;
    let status = reply.status();
    let mut response = Response::new(reply.bytes().await?);
    *response.status_mut() = status;
    Ok(response)
}

type Sending<'a> = Pin<Box<dyn Future<Output = Result<Response<Bytes>, HttpError>> + Send + 'a>>;

impl HttpClient for Collector {
    fn send_bytes<'life0, 'async_trait>(&'life0 self, request: Request<Bytes>) -> Sending<'async_trait>
    where
        'life0: 'async_trait,
        Self: 'async_trait,
    {
        let sending = self.runtime.spawn(send(self.client.clone(), request));
        Box::pin(async move {
            let reply = sending.await.map_err(HttpError::from).and_then(|sent| sent.map_err(HttpError::from));
            self.note(match &reply {
                Ok(reply) if reply.status().is_success() => None,
                Ok(reply) => Some(format!("it answered {}", reply.status())),
                Err(error) => Some(error.to_string()),
            });
            reply
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_endpoint_is_the_collector_s_address_with_or_without_its_path() {
        for given in ["http://c:4318", "http://c:4318/", "http://c:4318/v1/traces"] {
            assert_eq!(address(given).unwrap(), "http://c:4318/v1/traces");
        }
        for wrong in ["", "c:4318", "collector", "grpc://c:4317"] {
            assert!(address(wrong).unwrap_err().contains("http://127.0.0.1:4318"), "{wrong}");
        }
    }
}
