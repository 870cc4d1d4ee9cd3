//! What a request may hold: fields of the body and query parameters that the OpenAPI document names for its route.
//! Everything else is refused with the nearest known name: an option that is misspelt must not be dropped in silence.
//!
//! The list is the document itself, so that no route can take what it does not document. Agents are the exception
//! ([`Access::Worker`]): a newer agent says more than this version knows, and goes on working.

use crate::{
    App,
    auth::{Admin, Caller},
    error::ApiError,
    route::{Access, Route},
};
use axum::{
    body::{Body, HttpBody as _},
    extract::{FromRequestParts as _, Request},
    http::{Method, request::Parts},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use serde_json::{Map, Value};
use std::{collections::BTreeMap, sync::Arc};

/// Longest body of a route that takes none, in bytes: it is read only to say what is wrong with it.
const UNWANTED_BYTES_MAX: usize = 4 * 1024;
/// Longest part of an unknown name that is repeated in a refusal, in characters.
const NAME_SHOWN_MAX: usize = 60;

/// Content that a JSON value may have.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Shape {
    /// An object with these fields and no others.
    Fields(BTreeMap<String, Shape>),
    /// A list of such values.
    List(Box<Shape>),
    /// Value of any kind.
    Any,
}

impl Shape {
    /// Reads a schema of the document.
    fn of(document: &Value, schema: &Value) -> Self {
        let of = |schema| Self::of(document, schema);
        if let Some(reference) = schema["$ref"].as_str() {
            return document.pointer(reference.trim_start_matches('#')).map_or(Self::Any, of);
        }
        if let Some(choices) = schema["oneOf"].as_array() {
            let told = choices.iter().map(of).find(|shape| *shape != Self::Any);
            return told.unwrap_or(Self::Any);
        }
        if let Some(fields) = schema["properties"].as_object() {
            return Self::Fields(fields.iter().map(|(name, about)| (name.clone(), of(about))).collect());
        }
        match schema.get("items") {
            Some(items) => Self::List(Box::new(of(items))),
            None => Self::Any,
        }
    }

    /// Refuses a value that holds more, with the path of the first field that is not known.
    fn check(&self, value: &Value, path: &str) -> Result<(), ApiError> {
        match (self, value) {
            (Self::Fields(fields), Value::Object(given)) => given.iter().try_for_each(|(name, value)| {
                let place = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                match fields.get(name) {
                    Some(shape) => shape.check(value, &place),
                    None => Err(unknown("field", name, &place, fields.keys())),
                }
            }),
            (Self::List(shape), Value::Array(values)) => values
                .iter()
                .enumerate()
                .try_for_each(|(index, value)| shape.check(value, &format!("{path}[{index}]"))),
            (Self::Fields(_) | Self::List(_) | Self::Any, _) => Ok(()),
        }
    }
}

/// Description of one route in the document. The body extractor finds it among the request's extensions.
#[derive(Clone, Debug)]
pub struct Known {
    access: Access,
    query: Vec<String>,
    /// Shape of the body; `None`: the route takes no body.
    body: Option<Shape>,
}

impl Known {
    /// Reads what the document says of the route.
    pub fn of(document: &Value, route: &Route) -> Arc<Self> {
        let operation = &document["paths"][route.path][route.method.as_str().to_ascii_lowercase()];
        let parameters = operation["parameters"].as_array().into_iter().flatten();
        let query = parameters
            .filter(|parameter| parameter["in"] == "query")
            .filter_map(|parameter| parameter["name"].as_str().map(str::to_owned));
        let schema = operation["requestBody"]["content"]["application/json"].get("schema");
        let body = schema.map(|schema| Shape::of(document, schema));
        Arc::new(Self { access: route.access, query: query.collect(), body })
    }

    fn is_lenient(&self) -> bool {
        self.access == Access::Worker
    }

    /// Refuses a body with a field that the document does not name.
    ///
    /// # Errors
    /// 400 with `field` and the nearest known name.
    pub fn check_body(&self, body: &Value) -> Result<(), ApiError> {
        match &self.body {
            Some(shape) if !self.is_lenient() => shape.check(body, ""),
            Some(_) | None => Ok(()),
        }
    }

    /// The fields of a body that the document does not name, for a route that passes over them.
    pub fn passed_over(&self, body: &Map<String, Value>) -> Vec<String> {
        match &self.body {
            Some(Shape::Fields(fields)) => {
                body.keys().filter(|name| !fields.contains_key(*name)).map(|name| shown(name)).collect()
            }
            Some(Shape::List(_) | Shape::Any) | None => Vec::new(),
        }
    }

    fn check_query(&self, query: &str) -> Result<(), ApiError> {
        url::form_urlencoded::parse(query.as_bytes()).try_for_each(|(name, _)| {
            if self.query.iter().any(|known| *known == name) {
                return Ok(());
            }
            Err(unknown("query parameter", &name, &name, self.query.iter()))
        })
    }

    /// Refuses a caller who may not call the route, before anything wrong with the request is reported.
    async fn admit(&self, parts: &mut Parts, app: &App) -> Result<(), ApiError> {
        match self.access {
            Access::Anyone | Access::Worker | Access::Visitor => Ok(()),
            Access::User => Caller::from_request_parts(parts, app).await.map(drop),
            Access::Admin => Admin::from_request_parts(parts, app).await.map(drop),
        }
    }
}

fn shown(name: &str) -> String {
    name.chars().take(NAME_SHOWN_MAX).collect()
}

/// Returns the known name that is probably meant by `name`, in small letters.
fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a String> + Clone) -> Option<&'a String> {
    let near = known.clone().map(|known| (strsim::damerau_levenshtein(name, known), known));
    // As far as a third of the letters: `ssh_pubkey` is `ssh_public_key`, and `x` is nothing.
    let near = near.min().filter(|(distance, known)| *distance <= (known.chars().count() / 3).max(1));
    near.map(|(_, known)| known).or_else(|| {
        // `duration` and `hours` are `duration_hours`, and `user` is `username`, unless another name has that word, too.
        let is_word_of = |known: &&String| {
            known.split('_').any(|word| word == name) || (name.len() > 3 && known.starts_with(name))
        };
        let mut with_word = known.filter(is_word_of);
        with_word.next().filter(|_| with_word.next().is_none())
    })
}

fn unknown<'a>(
    what: &str,
    name: &str,
    place: &str,
    known: impl Iterator<Item = &'a String> + Clone,
) -> ApiError {
    let near = nearest(&shown(name).to_lowercase(), known.clone());
    let known: Vec<&str> = known.map(String::as_str).collect();
    let error = ApiError::field(
        &shown(place),
        match near {
            Some(near) => format!("there is no such {what}; `{near}` is probably meant"),
            None => format!("there is no such {what}"),
        },
    );
    error.hint(if known.is_empty() {
        format!("this route takes no {what}s; leave it out")
    } else {
        format!("this route takes {}", known.join(", "))
    })
}

/// Refuses what the route's document does not name, before its handler runs.
pub async fn refuse_unknown(app: App, known: Arc<Known>, request: Request, next: Next) -> Response {
    match checked(&app, &known, request).await {
        Ok(request) => next.run(request).await,
        Err(error) => error.into_response(),
    }
}

async fn checked(app: &App, known: &Arc<Known>, request: Request) -> Result<Request, ApiError> {
    let (mut parts, mut body) = request.into_parts();
    if !known.is_lenient() {
        if let Err(error) = known.check_query(parts.uri.query().unwrap_or_default()) {
            known.admit(&mut parts, app).await?;
            return Err(error);
        }
        if known.body.is_none() && parts.method == Method::POST && !body.is_end_stream() {
            known.admit(&mut parts, app).await?;
            refuse_content(body).await?;
            body = Body::empty();
        }
    }
    parts.extensions.insert(Arc::clone(known));
    Ok(Request::from_parts(parts, body))
}

/// Takes an empty body, `{}` and `null` where a route takes none: many clients always send something.
async fn refuse_content(body: Body) -> Result<(), ApiError> {
    let takes_none = || ApiError::bad_request("this route takes no body; leave it out");
    let bytes = axum::body::to_bytes(body, UNWANTED_BYTES_MAX).await.map_err(|_| takes_none())?;
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Ok(());
    }
    match serde_json::from_slice(&bytes) {
        Ok(Value::Null) => Ok(()),
        Ok(value @ Value::Object(_)) => Shape::Fields(BTreeMap::new()).check(&value, ""),
        Ok(Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_)) | Err(_) => {
            Err(takes_none())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_field_inside_of_another_is_named_by_its_path() {
        let shape = Shape::of(
            &Value::Null,
            &json!({ "properties": {
            "container": { "properties": { "image": { "type": "string" } } },
            "ports": { "type": "array", "items": { "properties": { "port": { "type": "integer" } } } },
        } }),
        );
        for (body, field) in [
            (json!({ "container": { "imgae": "x" } }), "container.imgae"),
            (json!({ "ports": [{ "port": 1 }, { "prot": 1 }] }), "ports[1].prot"),
        ] {
            let refused = shape.check(&body, "").expect_err("it is not known").body();
            assert_eq!(refused["field"], field, "{refused}");
            assert!(refused["detail"].as_str().is_some_and(|text| text.contains("probably")), "{refused}");
        }
        assert!(shape.check(&json!({ "container": { "image": "x" }, "ports": [] }), "").is_ok());
    }

    #[test]
    fn a_word_of_one_known_name_is_that_name() {
        let known = ["duration_hours", "ssh_public_key", "public", "count"].map(str::to_owned);
        let meant = |name: &str| nearest(name, known.iter()).map(String::as_str);
        assert_eq!(
            ["duration", "hours", "counts"].map(meant),
            [Some("duration_hours"), Some("duration_hours"), Some("count")]
        );
        assert_eq!((meant("ssh_pubkey"), meant("key")), (Some("ssh_public_key"), Some("ssh_public_key")));
        assert_eq!(["x", "our", "dur", "zebra"].map(meant), [None; 4]);
        assert_eq!(nearest("user", ["username".to_owned(), "invite".to_owned()].iter()).unwrap(), "username");
        let two = ["lease_hours", "duration_hours"].map(str::to_owned);
        assert_eq!(nearest("hours", two.iter()), None, "it may be either");
    }

    #[test]
    fn what_is_near_to_nothing_gets_no_guess() {
        let known = ["limit".to_owned(), "cursor".to_owned()];
        let refused = unknown("query parameter", "zebra", "zebra", known.iter()).body();
        assert!(!refused["detail"].as_str().is_some_and(|text| text.contains("probably")), "{refused}");
        assert_eq!(refused["hint"], "this route takes limit, cursor");
    }
}
