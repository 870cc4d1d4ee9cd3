//! `/api/openapi.json`, and `/docs`, where people read it: Swagger UI, served by us alone.

use crate::error::ApiError;
use axum::{
    Extension,
    extract::Path,
    http::{HeaderName, HeaderValue, header},
    response::{AppendHeaders, Html, IntoResponse},
};
use serde_json::Value;
use std::sync::{Arc, LazyLock};
use utoipa_swagger_ui::Config;

/// The page runs and loads what comes from here, and nothing else.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
    img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const PAGE: &str = include_str!("../../../web/docs.html");

static SWAGGER_UI: LazyLock<Arc<Config<'static>>> = LazyLock::new(|| {
    // No validator: it would be somebody else's server.
    let config = Config::new(["/api/openapi.json"]).validator_url("none").use_base_layout();
    Arc::new(config.display_request_duration(true).default_models_expand_depth(0))
});

/// The OpenAPI document as JSON text on one line.
#[derive(Clone)]
pub struct Document(Arc<str>);

impl Document {
    /// Writes the document down.
    pub fn new(document: &Value) -> Self {
        Self(document.to_string().into())
    }
}

/// OpenAPI document of this API
#[utoipa::path(
    get, path = "/api/openapi.json", operation_id = "openapi", tag = "pages",
    responses((status = 200, description = "OpenAPI 3.1", body = Object))
)]
pub async fn openapi(Extension(document): Extension<Document>) -> impl IntoResponse {
    let kind = HeaderValue::from_static("application/json");
    ([(header::CONTENT_TYPE, kind)], document.0.to_string())
}

/// OpenAPI document as a web page
///
/// Browsable, with a form to try each route. Loads nothing from anywhere else.
#[utoipa::path(
    get, path = "/docs", operation_id = "docsPage", tag = "pages",
    responses((status = 200, description = "HTML", body = String, content_type = "text/html"))
)]
pub async fn page() -> impl IntoResponse {
    (guarded("no-cache"), Html(PAGE))
}

/// A file of the page
#[utoipa::path(
    get, path = "/docs/{file}", operation_id = "docsFile", tag = "pages",
    params(("file" = String, Path, description = "Its name", example = "swagger-ui.css")),
    responses(
        (status = 200, description = "The file", body = String, content_type = "*/*"),
        (status = 404, description = "The page has no such file"),
    )
)]
pub async fn asset(Path(name): Path<String>) -> Result<impl IntoResponse, ApiError> {
    // The page is ours, under /docs; the other one would look for its files in another place.
    let file = match name.as_str() {
        "index.html" => None,
        name => utoipa_swagger_ui::serve(name, Arc::clone(&SWAGGER_UI)).map_err(ApiError::internal)?,
    };
    let file = file.ok_or_else(|| ApiError::not_found(format!("there is no file '{name}' here")))?;
    let kind = HeaderValue::try_from(file.content_type).map_err(ApiError::internal)?;
    let packed = file.gzpipped.then_some((header::CONTENT_ENCODING, HeaderValue::from_static("gzip")));
    Ok((guarded("max-age=3600"), [(header::CONTENT_TYPE, kind)], AppendHeaders(packed), file.bytes))
}

fn guarded(cache: &'static str) -> [(HeaderName, HeaderValue); 4] {
    [
        (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY)),
        (header::CACHE_CONTROL, HeaderValue::from_static(cache)),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    ]
}
