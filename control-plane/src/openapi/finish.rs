//! What the annotations leave out, because it follows from something else.

use super::examples;
use crate::route::{Access, Route};
use axum::http::StatusCode;
use serde_json::{Map, Value, json};

/// Older names of routes, and the route that each is a name of.
const OLDER_NAMES: [(&str, &str); 2] = [("/api/signup", "/auth/signup"), ("/api/login", "/auth/login")];
/// Every operation has a body of this kind when it has an error.
const PROBLEM: &str = "application/problem+json";
/// The group of routes that serve files, and ask nobody.
const PAGES: &str = "pages";
/// Errors of many routes: their status, their name in the document, and what is said of them.
const SHARED: [(u16, &str, &str); 9] = [
    (400, "BadRequest", "The request breaks a rule; `detail` says which, `field` where"),
    (401, "NotLoggedIn", "The token is missing, wrong, expired or void"),
    (403, "NotAllowed", "This needs an admin's account"),
    (404, "NotFound", "Not found, or not visible to this account"),
    (413, "TooLarge", "The body is larger than this service reads"),
    (422, "KeyReused", "This `Idempotency-Key` was used with another body"),
    (429, "TooMany", "Too many requests; `Retry-After` says how many seconds to wait"),
    (500, "InternalError", "Internal error; the log of the control plane says what failed"),
    (
        503,
        "Unavailable",
        "The database or something else that Orion needs is away, or the answer took too long",
    ),
];

/// Completes the document that the annotations give.
pub fn finish(mut document: Value, routes: &[Route]) -> Value {
    for (older, name) in OLDER_NAMES {
        let mut item = document["paths"][name].clone();
        for operation in item.as_object_mut().into_iter().flat_map(Map::values_mut) {
            let id = operation["operationId"].as_str().unwrap_or_default();
            operation["operationId"] = format!("{id}ByOlderName").into();
            operation["description"] = format!("The older name of `{name}`.").into();
        }
        document["paths"][older] = item;
    }
    for route in routes {
        let method = route.method.as_str().to_ascii_lowercase();
        // A route that no annotation speaks of stays out: the test of the two lists tells.
        if let Some(operation) = document.pointer_mut(&format!("/paths/{}/{method}", escaped(route.path))) {
            complete(operation, route);
        }
    }
    document["components"]["securitySchemes"] = json!({
        "account": {
            "type": "http", "scheme": "bearer", "bearerFormat": "JWT",
            "description": "The token of `POST /auth/login`. Routes with the role `admin` need an admin's.",
        },
        "visitor": {
            "type": "apiKey", "in": "cookie", "name": orion_domain::container::APP_COOKIE,
            "description": "The cookie that a URL of `openContainer` gives, for one host.",
        },
        "join_token": {
            "type": "http", "scheme": "bearer",
            "description": "A token of `POST /api/tokens`: lets a machine become a node.",
        },
        "node_token": {
            "type": "http", "scheme": "bearer",
            "description": "A node's own token, from its registration.",
        },
    });
    for (status, name, about) in SHARED {
        document["components"]["responses"][name] = problem(status, about, examples::problem("", status));
    }
    flatten(&mut document["components"]["schemas"]);
    document
}

/// A body that holds another one's fields beside its own (`serde(flatten)`) has them all by itself: what is in
/// parts cannot say that there is nothing else.
fn flatten(schemas: &mut Value) {
    let known = schemas.clone();
    for schema in schemas.as_object_mut().into_iter().flat_map(Map::values_mut) {
        let Some(parts) = schema.as_object_mut().and_then(|schema| schema.remove("allOf")) else { continue };
        let (mut properties, mut required) = (Map::new(), Vec::new());
        for part in parts.as_array().into_iter().flatten() {
            let name = part["$ref"].as_str().and_then(|reference| reference.rsplit('/').next());
            let part = name.map_or(part, |name| &known[name]);
            properties.extend(part["properties"].as_object().cloned().unwrap_or_default());
            required.extend(part["required"].as_array().cloned().unwrap_or_default());
        }
        schema["type"] = "object".into();
        schema["properties"] = properties.into();
        schema["required"] = required.into();
    }
}

/// A key as a part of a JSON pointer (RFC 6901).
fn escaped(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

fn complete(operation: &mut Value, route: &Route) {
    let id = operation["operationId"].as_str().unwrap_or_default().replace("ByOlderName", "");
    match route.access {
        Access::Anyone => operation["security"] = json!([]),
        Access::User => operation["security"] = json!([{ "account": [] }]),
        Access::Admin => operation["security"] = json!([{ "account": ["admin"] }]),
        Access::Visitor => operation["security"] = json!([{ "visitor": [] }]),
        // A handler says which of the workers' tokens it takes.
        Access::Worker => {}
    }
    let expected = shared_errors(operation, route);
    if let Some(body) = operation.get_mut("requestBody").and_then(|body| body.get_mut("content")) {
        for media in body.as_object_mut().into_iter().flat_map(Map::values_mut) {
            set_example(media, || examples::request(&id));
        }
    }
    let Some(responses) = operation["responses"].as_object_mut() else { return };
    for (status, name) in expected {
        let shared = json!({ "$ref": format!("#/components/responses/{name}") });
        responses.entry(status.to_string()).or_insert(shared);
    }
    for (status, response) in responses {
        let status: u16 = status.parse().unwrap_or_default();
        if status >= 400 && response.get("content").is_none() && response.get("$ref").is_none() {
            let about = response["description"].as_str().unwrap_or_default().to_owned();
            *response = problem(status, &about, examples::problem(&id, status));
        }
        if let Some(content) = response.get_mut("content").and_then(Value::as_object_mut) {
            for media in content.values_mut() {
                set_example(media, || examples::reply(&id, status));
            }
        }
    }
    // Statuses in order.
    if let Some(responses) = operation["responses"].as_object_mut() {
        let mut sorted: Vec<(String, Value)> = std::mem::take(responses).into_iter().collect();
        sorted.sort_by(|(a, _), (b, _)| a.cmp(b));
        responses.extend(sorted);
    }
}

/// The errors that a route has because of what it is: its status and name in [`SHARED`].
fn shared_errors(operation: &Value, route: &Route) -> Vec<(u16, &'static str)> {
    let parameters = operation["parameters"].as_array().map_or(&[][..], Vec::as_slice);
    let has = |place: &str| parameters.iter().any(|parameter| parameter["in"] == place);
    let has_body = operation.get("requestBody").is_some();
    let has_key = parameters.iter().any(|parameter| parameter["name"] == "Idempotency-Key");
    let is_page = operation["tags"][0] == PAGES;
    let applies = |status: u16| match status {
        // An unknown query parameter or field is refused everywhere.
        400 => true,
        401 => route.access != Access::Anyone,
        403 => route.access == Access::Admin,
        404 => has("path"),
        413 => has_body,
        422 => has_key,
        429 => route.path != "/api/live",
        500 => !is_page,
        503 => !is_page && route.path != "/api/live",
        _ => false,
    };
    SHARED.iter().filter(|(status, ..)| applies(*status)).map(|(status, name, _)| (*status, *name)).collect()
}

fn problem(status: u16, about: &str, example: Value) -> Value {
    let mut response = json!({
        "description": about,
        "content": { PROBLEM: { "schema": { "$ref": "#/components/schemas/Problem" }, "example": example } },
    });
    let header = |about: &str, kind: &str| json!({ "description": about, "schema": { "type": kind } });
    match StatusCode::from_u16(status) {
        Ok(StatusCode::UNAUTHORIZED) => {
            response["headers"] = json!({ "WWW-Authenticate": header("`Bearer`", "string") });
        }
        Ok(StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) => {
            response["headers"] = json!({ "Retry-After": header("Seconds until it may work", "integer") });
        }
        Ok(_) | Err(_) => {}
    }
    response
}

/// The example of a media type: its own, or the one of its schema.
fn set_example(media: &mut Value, own: impl FnOnce() -> Option<Value>) {
    if media.get("example").is_some() {
        return;
    }
    let example = own().or_else(|| of_schema(&media["schema"]));
    if let (Some(example), Some(media)) = (example, media.as_object_mut()) {
        media.insert("example".into(), example);
    }
}

fn of_schema(schema: &Value) -> Option<Value> {
    if schema["type"] == "array" {
        return of_schema(&schema["items"]).map(|one| json!([one]));
    }
    if let Some(one) = schema["oneOf"].as_array() {
        return one.iter().find_map(of_schema);
    }
    let name = schema["$ref"].as_str()?.rsplit('/').next()?;
    examples::of_schema(name)
}
