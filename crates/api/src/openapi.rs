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
            "schemas": generator.take_definitions(true),
            "securitySchemes": { "token": { "type": "http", "scheme": "bearer" } },
        },
    })
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
    let in_path = endpoint
        .path_parameters()
        .map(|name| json!({ "name": name, "in": "path", "required": true, "schema": path_parameter(name, generator) }));
    let in_query = endpoint
        .query
        .iter()
        .map(|ask| json!({ "name": ask.name, "in": "query", "description": ask.summary, "schema": query_parameter(ask) }));
    let parameters: Vec<Value> = in_path.chain(in_query).collect();
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
        "digest" => generator.subschema_for::<Digest>(),
        "domain" => generator.subschema_for::<Domain>(),
        "secret" => json_schema!({ "type": "string", "pattern": "^[A-Za-z_][A-Za-z0-9_]{0,127}$" }),
        name => unreachable!("{name} is a new parameter: say here what it looks like"),
    }
}

fn query_parameter(ask: &Parameter) -> Value {
    match ask.kind {
        // Counts, all of them.
        "integer" => json!({ "type": "integer", "minimum": 0 }),
        kind => json!({ "type": kind }),
    }
}

fn content(body: Body, generator: &mut SchemaGenerator) -> Value {
    match body {
        Body::None => json!({}),
        Body::Json(schema) => json!({ "application/json": { "schema": schema(generator) } }),
        Body::Bytes => json!({ "application/octet-stream": { "schema": { "type": "string", "format": "binary" } } }),
        Body::Lines(schema) => json!({ "application/x-ndjson": { "schema": schema(generator) } }),
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
