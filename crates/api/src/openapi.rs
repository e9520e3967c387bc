//! The OpenAPI 3.1 text, written from the endpoint table.

use base::{Digest, Domain, Name, TokenId};
use schemars::generate::SchemaSettings;
use schemars::{Schema, SchemaGenerator, json_schema};
use serde_json::{Map, Value, json};

use crate::endpoint::{Body, ENDPOINTS, Endpoint, Needs, Parameter};
use crate::types::Problem;

/// The whole description.
pub fn openapi(version: &str) -> Value {
    let mut generator = SchemaSettings::draft2020_12()
        .with(|settings| settings.definitions_path = "/components/schemas".into())
        .into_generator();
    let problem = generator.subschema_for::<Problem>();
    let mut paths = Map::new();
    for endpoint in ENDPOINTS {
        let operation = operation(endpoint, &mut generator, &problem);
        let path = paths.entry(endpoint.path).or_insert_with(|| json!({}));
        path[endpoint.method.as_str().to_lowercase()] = operation;
    }
    let mut schemas = Value::Object(generator.take_definitions(true));
    allow_repeats(&mut schemas);
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Firmament",
            "version": version,
            "description": "The management API of a Firmament cloud. Times are milliseconds since 1970, UTC.",
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
        },
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": { "token": { "type": "http", "scheme": "bearer" } },
        },
    })
}

/// A set takes what is said twice as said once, so the API doesn't promise to refuse it. An editor that reads the
/// manifest's own schema still shows it as a mistake.
fn allow_repeats(schema: &mut Value) {
    match schema {
        Value::Object(object) => {
            object.remove("uniqueItems");
            object.values_mut().for_each(allow_repeats);
        }
        Value::Array(items) => items.iter_mut().for_each(allow_repeats),
        _ => {}
    }
}

fn operation(endpoint: &Endpoint, generator: &mut SchemaGenerator, problem: &Schema) -> Value {
    let (status, done) = if endpoint.creates { ("201", "Made.") } else { ("200", "Done.") };
    let mut operation = json!({
        "operationId": operation_id(endpoint),
        "summary": endpoint.summary,
        "security": security(endpoint.needs),
        "responses": {
            status: { "description": done, "content": content(endpoint.answer, generator) },
            "default": { "description": "Not done, and why.", "content": { "application/json": { "schema": problem } } },
        },
    });
    let mut parameters = Vec::new();
    for name in endpoint.path_parameters() {
        parameters
            .push(json!({ "name": name, "in": "path", "required": true, "schema": path_parameter(name, generator) }));
    }
    for ask in endpoint.query {
        let schema = query_parameter(ask, generator);
        parameters.push(json!({ "name": ask.name, "in": "query", "description": ask.summary, "schema": schema }));
    }
    if !parameters.is_empty() {
        operation["parameters"] = parameters.into();
    }
    if !matches!(endpoint.request, Body::None) {
        operation["requestBody"] = json!({ "required": true, "content": content(endpoint.request, generator) });
    }
    operation
}

/// What a parameter of a path looks like.
fn path_parameter(name: &str, generator: &mut SchemaGenerator) -> Schema {
    match name {
        "tenant" | "app" | "stage" => generator.subschema_for::<Name>(),
        "token" => generator.subschema_for::<TokenId>(),
        // A name, a long name or an id.
        "box" => json_schema!({ "type": "string", "pattern": "^[a-z0-9-]{1,63}$" }),
        "digest" => generator.subschema_for::<Digest>(),
        "domain" => generator.subschema_for::<Domain>(),
        "secret" => json_schema!({ "type": "string", "pattern": "^[A-Za-z_][A-Za-z0-9_]{0,127}$" }),
        name => unreachable!("{name} is a new parameter: say here what it looks like"),
    }
}

fn query_parameter(ask: &Parameter, generator: &mut SchemaGenerator) -> Schema {
    match (ask.name, ask.kind) {
        ("stage", _) => generator.subschema_for::<Name>(),
        ("stream", _) => json_schema!({ "type": "string", "enum": ["stdout", "stderr", "fault", "access"] }),
        // Counts, all of them.
        (_, "integer") => json_schema!({ "type": "integer", "minimum": 0 }),
        (_, kind) => json_schema!({ "type": kind }),
    }
}

fn content(body: Body, generator: &mut SchemaGenerator) -> Value {
    match body {
        Body::None => json!({}),
        Body::Json(schema) => json!({ "application/json": { "schema": schema(generator) } }),
        Body::Bytes => json!({ "application/octet-stream": { "schema": { "type": "string", "format": "binary" } } }),
        Body::Lines(schema) => json!({ "application/x-ndjson": { "schema": schema(generator) } }),
        Body::Metrics => json!({ "text/plain": { "schema": { "type": "string" } } }),
        Body::Text => json!({ "application/json": { "schema": { "type": "object" } } }),
    }
}

fn security(needs: Needs) -> Value {
    match needs {
        Needs::Nothing => json!([]),
        Needs::Token | Needs::Member(_) | Needs::Operator => json!([{ "token": [] }]),
    }
}

/// `StagePromote` → `stage_promote`.
fn operation_id(endpoint: &Endpoint) -> String {
    let mut id = String::new();
    for ch in format!("{:?}", endpoint.operation).chars() {
        if ch.is_ascii_uppercase() && !id.is_empty() {
            id.push('_');
        }
        id.push(ch.to_ascii_lowercase());
    }
    id
}
