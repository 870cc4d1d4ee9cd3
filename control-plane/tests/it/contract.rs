//! Holds every reply of the tests' API against the OpenAPI document: the status is one that the document
//! names, the body fits its schema, and says nothing that the schema does not.

use jsonschema::Validator;
use orion_control_plane::router::document;
use serde_json::{Value, json};
use std::{
    collections::HashMap,
    sync::{Arc, LazyLock, Mutex},
};

/// A reply, and the request that it answers.
pub struct Exchange<'a> {
    /// The method's name.
    pub method: &'a str,
    /// The path without its query.
    pub path: &'a str,
    /// The body that was sent, if it was JSON.
    pub sent: Option<&'a Value>,
    /// The reply's status.
    pub status: u16,
    /// The reply's media type with its parameters.
    pub kind: &'a str,
    /// The reply's body.
    pub text: &'a str,
}

/// The operation of a route, if the document has it.
pub fn operation(method: &str, path: &str) -> Option<&'static Value> {
    let paths = document()["paths"].as_object().expect("paths");
    let item = match paths.get(path) {
        Some(item) => item,
        None => paths.iter().find(|(template, _)| fits(template, path))?.1,
    };
    item.get(method.to_ascii_lowercase())
}

fn fits(template: &str, path: &str) -> bool {
    let same = |(template, part): (&str, &str)| template == part || template.starts_with('{');
    template.split('/').count() == path.split('/').count()
        && template.split('/').zip(path.split('/')).all(same)
}

/// A reply of an operation, through the reference to a shared one.
pub fn response(operation: &'static Value, status: u16) -> Option<&'static Value> {
    let response = operation["responses"].get(status.to_string())?;
    match response["$ref"].as_str() {
        Some(reference) => document().pointer(reference.trim_start_matches('#')),
        None => Some(response),
    }
}

/// Panics unless the exchange is one that the document describes.
#[track_caller]
pub fn check(exchange: &Exchange<'_>) {
    let Exchange { method, path, sent, status, kind, text } = *exchange;
    let what = format!("{method} {path} ({status})");
    let Some(operation) = operation(method, path) else {
        let refused = matches!(status, 200 | 404 | 405) && (status != 200 || method == "OPTIONS");
        assert!(refused, "{what}: the document has no such route");
        return;
    };
    let Some(response) = response(operation, status) else {
        panic!("{what}: the document has no such status: {text}")
    };
    if let (200..300, Some(sent), Some(body)) = (status, sent, operation.get("requestBody")) {
        fit(&body["content"]["application/json"]["schema"], sent, Reading::Request, &what);
    }
    let Some(content) = response.get("content") else { return };
    let kind = kind.split(';').next().unwrap_or_default().trim();
    let media = content.get(kind).or_else(|| content.get("*/*"));
    let media = media.unwrap_or_else(|| panic!("{what}: the document has no body of the type '{kind}'"));
    if kind.ends_with("json") {
        let body = serde_json::from_str(text).unwrap_or_else(|error| panic!("{what}: {error}: {text}"));
        fit(&media["schema"], &body, Reading::Reply, &what);
    }
}

/// Panics unless `event` is one as the document describes it.
#[track_caller]
pub fn check_event(event: &Value) {
    fit(&json!({ "$ref": "#/components/schemas/Event" }), event, Reading::Reply, "an event");
}

/// Strictness with which a schema is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reading {
    /// Body that may hold more than the schema says.
    Request,
    /// Body that holds no more than the schema says.
    Reply,
}

/// Panics unless `value` fits `schema`.
#[track_caller]
pub fn fit(schema: &Value, value: &Value, reading: Reading, what: &str) {
    let validator = validator(schema, reading);
    let wrong: Vec<String> =
        validator.iter_errors(value).map(|error| format!("{}: {error}", error.instance_path())).collect();
    assert!(wrong.is_empty(), "{what} does not fit the document:\n{}\n{value:#}", wrong.join("\n"));
}

type Known = HashMap<(String, Reading), Arc<Validator>>;

fn validator(schema: &Value, reading: Reading) -> Arc<Validator> {
    static KNOWN: LazyLock<Mutex<Known>> = LazyLock::new(Mutex::default);
    let mut known = KNOWN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let made = known.entry((schema.to_string(), reading)).or_insert_with(|| {
        let mut root = schema.clone();
        root["components"] = document()["components"].clone();
        if reading == Reading::Reply {
            close(&mut root);
        }
        let options = jsonschema::draft202012::options().should_validate_formats(true);
        Arc::new(options.build(&root).expect("a schema"))
    });
    Arc::clone(made)
}

/// Objects have the properties that the schema names, and no others.
fn close(schema: &mut Value) {
    match schema {
        Value::Object(map) => {
            for (_, part) in map.iter_mut().filter(|(name, _)| *name != "example") {
                close(part);
            }
            // Not a map of properties one of which is called `properties`.
            if map.get("type") == Some(&json!("object")) && map.contains_key("properties") {
                map.entry("additionalProperties").or_insert(json!(false));
            }
        }
        Value::Array(parts) => parts.iter_mut().for_each(close),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}
