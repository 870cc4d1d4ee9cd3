//! The manual of the API, from its OpenAPI document: a table a group, `curl` for each route, every body.

use crate::{
    failure::{Failure, Outcome},
    process::quoted,
};
use serde_json::{Map, Value};
use std::fmt::Write as _;

const HEAD: &str = "\
<!-- Written by `cargo xtask gen` from the API's own document. Change what stands beside the handlers in
`control-plane/src/routes/`, or `control-plane/src/openapi/about.md`, and run it again. -->

# The API

";

const WHERE: &str = "

## The document

Every control plane serves its own as OpenAPI 3.1 at `GET /api/openapi.json`, and for people, with a form to try each
route, at `/docs` (it loads nothing from anywhere else); `orion openapi` prints it. The one of this version is
`web/api/openapi.json`. `web/api/schema.d.ts` has its types for TypeScript and `openapi-fetch`; `web/api/smoke.ts`
shows how a program uses them. CI generates both anew, and runs that program against a real `orion up`.

## How the examples read

`$ORION` is the API's address, `$TOKEN` a user's access token, `$ADMIN` an admin's, and `$JOIN` a join token.

```sh
export ORION=http://127.0.0.1:8080
TOKEN=$(curl -sS \"$ORION/auth/login\" --json '{\"username\":\"alice\",\"password\":\"correct horse battery\"}' | jq -r .token)
```

## Events

`GET /api/events` is a stream of server-sent events. A frame has `id`, `event` (the kind) and `data` (an [Event](#event));
the first frame has an `id` alone, which says where the stream begins. Every 15 s a comment line keeps the connection
open; a reader that does not read for 30 s is cut off. To go on after a break send the last `id` in `Last-Event-ID`,
to any replica: every event comes at least once, in order. `?after=0` begins with the oldest, and `?follow=false` ends
after what there is.

## Errors of every route

";

/// The whole text.
///
/// # Errors
/// When the document lacks something that the manual needs.
pub fn manual(document: &Value) -> Outcome<String> {
    let manual = Manual { document };
    let mut text = HEAD.to_owned();
    text += str_at(&document["info"], "description")?.trim_end();
    text += WHERE;
    manual.shared_errors(&mut text)?;
    for group in list(&document["tags"]) {
        manual.group(str_at(group, "name")?, str_at(group, "description")?, &mut text)?;
    }
    text += "\n## Bodies\n\nA `?` marks what may be left out.\n";
    for (name, schema) in entries(&document["components"]["schemas"]) {
        manual.body(name, schema, &mut text);
    }
    Ok(text)
}

struct Manual<'a> {
    document: &'a Value,
}

/// A route, as one operation of the document.
struct Operation<'a> {
    method: String,
    path: &'a str,
    about: &'a Value,
}

impl<'a> Manual<'a> {
    fn operations(&self, group: &str) -> Vec<Operation<'a>> {
        let mut found = Vec::new();
        for (path, item) in entries(&self.document["paths"]) {
            for (method, about) in entries(item).filter(|(_, about)| about["tags"][0] == group) {
                found.push(Operation { method: method.to_uppercase(), path, about });
            }
        }
        found
    }

    fn shared_errors(&self, text: &mut String) -> Outcome {
        let mut rows = Vec::new();
        for (_, response) in entries(&self.document["components"]["responses"]) {
            let example = &response["content"]["application/problem+json"]["example"];
            let kind = str_at(example, "kind")?;
            rows.push(format!(
                "| {} | `{kind}` | {} |\n",
                example["status"],
                cell(str_at(response, "description")?)
            ));
        }
        rows.sort();
        *text += "| status | `kind` | |\n|---|---|---|\n";
        text.extend(rows);
        *text += "| 404 | `not_found` | There is no such route |\n";
        *text += "| 405 | `method_not_allowed` | The route has another method; `Allow` says which |\n";
        Ok(())
    }

    fn group(&self, name: &str, about: &str, text: &mut String) -> Outcome {
        let operations = self.operations(name);
        let (first, rest) = name.split_at(1);
        line(text, &format!("\n## {}{rest}\n\n{about}\n", first.to_uppercase()));
        line(text, "| route | who | | body | replies |\n|---|---|---|---|---|");
        for operation in &operations {
            let Operation { method, path, about } = operation;
            let what = cell(&format!(
                "{}. {}",
                str_at(about, "summary")?,
                about["description"].as_str().unwrap_or("")
            ));
            let body = self.request(about);
            let replies = self.replies(about)?;
            line(text, &format!("| `{method} {path}` | {} | {what} | {body} | {replies} |", who(about)));
        }
        let commands: Vec<String> = operations.iter().filter_map(curl).collect();
        if !commands.is_empty() {
            line(text, &format!("\n```sh\n{}\n```", commands.join("\n")));
        }
        Ok(())
    }

    fn request(&self, about: &Value) -> String {
        let body = &about["requestBody"];
        match body["content"]["application/json"].get("schema") {
            Some(schema) => self.kind(schema) + if body["required"] == true { "" } else { "?" },
            None => String::new(),
        }
    }

    /// What comes back, without what every route has.
    fn replies(&self, about: &Value) -> Outcome<String> {
        let mut parts = Vec::new();
        for (status, response) in entries(&about["responses"]).filter(|(_, one)| one.get("$ref").is_none()) {
            let content = &response["content"]["application/json"];
            let body = match content.get("schema") {
                Some(schema) if schema.get("type").is_none_or(|kind| kind != "object") => {
                    format!(" {}", self.kind(schema))
                }
                Some(_) | None => String::new(),
            };
            parts.push(format!("**{status}**{body} {}", cell(str_at(response, "description")?)));
        }
        Ok(parts.join("<br>"))
    }

    /// A schema in a few words.
    fn kind(&self, schema: &Value) -> String {
        if let Some(reference) = schema["$ref"].as_str() {
            let name = reference.rsplit('/').next().unwrap_or(reference);
            return format!("[{name}](#{})", name.to_lowercase());
        }
        let either: Vec<String> =
            list(&schema["oneOf"]).filter(|one| one["type"] != "null").map(|one| self.kind(one)).collect();
        if !either.is_empty() {
            return either.join(" or ");
        }
        let kinds = match &schema["type"] {
            Value::Array(kinds) => kinds.iter().filter_map(Value::as_str).collect(),
            Value::String(kind) => vec![kind.as_str()],
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => Vec::new(),
        };
        let kinds = kinds.into_iter().map(|kind| match (kind, schema["format"].as_str()) {
            ("array", _) => format!("list of {}", self.kind(&schema["items"])),
            ("string", Some("date-time")) => "time".to_owned(),
            (kind, _) => kind.to_owned(),
        });
        kinds.collect::<Vec<_>>().join(" or ")
    }

    fn body(&self, name: &str, schema: &Value, text: &mut String) {
        let about = schema["description"].as_str().unwrap_or_default();
        line(text, &format!("\n### {name}\n\n{}", about.trim_end()));
        let words: Vec<String> = list(&schema["enum"]).map(|word| format!("`{}`", plain(word))).collect();
        if !words.is_empty() {
            line(text, &format!("\nOne of {}.", words.join(", ")));
        }
        if entries(&schema["properties"]).next().is_none() {
            return;
        }
        line(text, "\n| | | |\n|---|---|---|");
        for (name, field) in entries(&schema["properties"]) {
            let optional = if list(&schema["required"]).any(|one| one == name) { "" } else { "?" };
            line(text, &format!("| `{name}`{optional} | {} | {} |", self.kind(field), cell(&remark(field))));
        }
    }
}

/// What is said of a field, also where it is said of one of its alternatives.
fn remark(field: &Value) -> String {
    let own = field["description"].as_str();
    let inner = || list(&field["oneOf"]).find_map(|one| one["description"].as_str());
    own.or_else(inner).unwrap_or_default().to_owned()
}

fn who(about: &Value) -> String {
    let schemes = list(&about["security"]).flat_map(entries);
    let names: Vec<&str> = schemes
        .map(|(scheme, roles)| match scheme {
            "account" if list(roles).any(|role| role == "admin") => "admin",
            "account" => "user",
            "join_token" => "join token",
            "node_token" => "node token",
            other => other,
        })
        .collect();
    if names.is_empty() { "anyone".to_owned() } else { names.join(", ") }
}

/// The command that calls a route; none for older names, for pages, and for what curl does not speak.
fn curl(operation: &Operation<'_>) -> Option<String> {
    let Operation { method, path, about } = operation;
    let is_older_name = about["operationId"].as_str().is_some_and(|id| id.ends_with("ByOlderName"));
    if is_older_name
        || about["responses"].get("101").is_some()
        || (about["tags"][0] == "pages" && *path != "/api/openapi.json")
    {
        return None;
    }
    let mut address = (*path).to_owned();
    let mut query = Vec::new();
    let mut words = Vec::new();
    for parameter in list(&about["parameters"]) {
        let name = parameter["name"].as_str()?;
        let example = plain(&parameter["example"]);
        match (parameter["in"].as_str()?, name) {
            ("path", _) => address = address.replace(&format!("{{{name}}}"), &example),
            ("query", "limit" | "after") => query.push(format!("{name}={example}")),
            ("header", "Idempotency-Key") => words.push(format!("-H '{name}: {example}'")),
            _ => {}
        }
    }
    if !query.is_empty() {
        let _ = write!(address, "?{}", query.join("&"));
    }
    let token = match who(about).as_str() {
        "anyone" => None,
        "user" => Some("$TOKEN"),
        "admin" => Some("$ADMIN"),
        // The registration; the agents' link is none of curl's.
        _ => Some("$JOIN"),
    };
    if let Some(token) = token {
        words.insert(0, format!("-H \"Authorization: Bearer {token}\""));
    }
    match about["requestBody"]["content"]["application/json"].get("example") {
        Some(body) => words.push(format!("--json {}", quoted(&body.to_string()))),
        None if method == "POST" => words.push("-X POST".to_owned()),
        None => {}
    }
    let streams = about["responses"]["200"]["content"].get("text/event-stream").is_some();
    let command = format!("curl {} \"$ORION{address}\"", if streams { "-sSN" } else { "-sS" });
    Some([command].into_iter().chain(words).collect::<Vec<_>>().join(" \\\n  "))
}

fn str_at<'a>(value: &'a Value, key: &str) -> Outcome<&'a str> {
    value[key].as_str().ok_or_else(|| Failure::new(format!("the OpenAPI document has no '{key}' in {value}")))
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn entries(value: &Value) -> impl Iterator<Item = (&str, &Value)> {
    value.as_object().into_iter().flat_map(Map::iter).map(|(name, value)| (name.as_str(), value))
}

/// Text as a cell of a table: on one line.
fn cell(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|")
}

/// A value without the quotes of JSON.
fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn line(text: &mut String, line: &str) {
    text.push_str(line);
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn document() -> Value {
        json!({
            "info": { "description": "About it.\n" },
            "tags": [{ "name": "leases", "description": "What is leased." }],
            "paths": { "/api/rentals/{id}": { "post": {
                "tags": ["leases"], "summary": "Do it", "description": "a\nb | c",
                "security": [{ "account": ["admin"] }],
                "parameters": [
                    { "name": "id", "in": "path", "example": "17" },
                    { "name": "limit", "in": "query", "example": 5 },
                ],
                "requestBody": { "content": { "application/json": {
                    "schema": { "oneOf": [{ "type": "null" }, { "$ref": "#/components/schemas/Body" }] },
                    "example": { "why": "it's" },
                } } },
                "responses": {
                    "200": { "description": "Done", "content": { "application/json": {
                        "schema": { "type": "array", "items": { "$ref": "#/components/schemas/Body" } } } } },
                    "401": { "$ref": "#/components/responses/NotLoggedIn" },
                },
            } } },
            "components": {
                "responses": { "NotLoggedIn": { "description": "Who?", "content": {
                    "application/problem+json": { "example": { "kind": "unauthorized", "status": 401 } } } } },
                "schemas": { "Body": {
                    "description": "A body.", "required": ["at"],
                    "properties": {
                        "at": { "type": ["string", "null"], "format": "date-time" },
                        "why": { "type": "string", "description": "The reason." },
                    },
                } },
            },
        })
    }

    #[test]
    fn a_route_stands_in_its_groups_table_and_as_a_command() {
        let text = manual(&document()).unwrap();
        let row = "| `POST /api/rentals/{id}` | admin | Do it. a b \\| c | [Body](#body)? | \
                   **200** list of [Body](#body) Done |";
        assert!(text.contains(row), "{text}");
        let command = "```sh\ncurl -sS \"$ORION/api/rentals/17?limit=5\" \\\n  \
                       -H \"Authorization: Bearer $ADMIN\" \\\n  --json '{\"why\":\"it'\\''s\"}'\n```";
        assert!(text.contains(command), "{text}");
        assert!(text.contains("| 401 | `unauthorized` | Who? |"), "{text}");
    }

    #[test]
    fn a_body_stands_with_its_fields() {
        let text = manual(&document()).unwrap();
        assert!(text.contains("### Body\n\nA body.\n"), "{text}");
        assert!(text.contains("| `at` | time or null |  |\n| `why`? | string | The reason. |"), "{text}");
    }

    #[test]
    fn a_document_that_lacks_a_summary_is_refused() {
        let mut document = document();
        document["paths"]["/api/rentals/{id}"]["post"]["summary"] = Value::Null;
        assert!(manual(&document).unwrap_err().to_string().contains("summary"));
    }
}
