//! The OpenAPI document: generated from the handlers, completed with what is true of all of them.

use std::collections::BTreeSet;

use atoll_model::api::ErrorBody;
use utoipa::openapi::content::ContentBuilder;
use utoipa::openapi::path::{Operation, PathItem};
use utoipa::openapi::schema::{ObjectBuilder, OneOfBuilder, Schema, Type};
use utoipa::openapi::security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{
    Components, InfoBuilder, OpenApi, OpenApiBuilder, Ref, RefOr, Required, Response, ResponseBuilder,
};
use utoipa::{PartialSchema, ToSchema};

use super::forms;

/// The document before the routes are added.
pub fn base(version: &str) -> OpenApi {
    let info = InfoBuilder::new()
        .title("Atoll")
        .version(version)
        .description(Some(
            "Isolated Linux sandboxes on machines that you own. Times are RFC 3339 with zone; sizes carry their unit \
             in the name. Errors of every route have the shape `ErrorBody`. `Idempotency-Key` is honoured on every \
             POST that creates something.",
        ))
        .build();
    OpenApiBuilder::new().info(info).components(Some(Components::new())).build()
}

/// Adds the security schemes, and to each operation the errors that it can answer by its nature.
pub fn complete(mut api: OpenApi) -> OpenApi {
    let components = api.components.get_or_insert_with(Components::new);
    components.add_security_scheme("api_key", SecurityScheme::ApiKey(ApiKey::Header(ApiKeyValue::new("X-API-Key"))));
    let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).bearer_format("JWT").build();
    components.add_security_scheme("bearer", SecurityScheme::Http(bearer));
    components.schemas.insert("ErrorBody".to_owned(), ErrorBody::schema());
    let mut schemas = Vec::new();
    <ErrorBody as ToSchema>::schemas(&mut schemas);
    <atoll_model::api::sandboxes::StreamInput as ToSchema>::schemas(&mut schemas);
    for (name, schema) in schemas {
        components.schemas.entry(name).or_insert(schema);
    }
    for (name, schema) in [
        ("StreamInput", atoll_model::api::sandboxes::StreamInput::schema()),
        ("StreamOutput", atoll_model::api::sandboxes::StreamOutput::schema()),
        ("WatchOutput", atoll_model::api::sandboxes::WatchOutput::schema()),
        ("Encoding", atoll_model::api::sandboxes::Encoding::schema()),
        ("FileChange", atoll_model::api::sandboxes::FileChange::schema()),
    ] {
        components.schemas.entry(name.to_owned()).or_insert(schema);
    }
    split_host_request(components);
    forms::of_fields(components);
    let may_be_empty =
        |schema: &RefOr<Schema>| matches!(schema, RefOr::T(Schema::Object(object)) if object.required.is_empty());
    let mut lenient: BTreeSet<String> =
        components.schemas.iter().filter(|(_, schema)| may_be_empty(schema)).map(|(name, _)| name.clone()).collect();
    // One of its two shapes may be.
    lenient.insert(HOST_REQUEST.to_owned());
    for (path, item) in &mut api.paths.paths {
        for (method, operation) in operations(item) {
            operation.operation_id = Some(operation_id(method, path));
            complete_operation(path, operation);
            forms::of_parameters(operation);
            optional_body(operation, &lenient);
        }
    }
    forms::of_bodies(&mut api);
    api
}

/// Those of a path, with their methods.
pub fn operations(item: &mut PathItem) -> impl Iterator<Item = (&'static str, &mut Operation)> {
    let all = [
        ("get", &mut item.get),
        ("put", &mut item.put),
        ("post", &mut item.post),
        ("delete", &mut item.delete),
        ("patch", &mut item.patch),
        ("head", &mut item.head),
        ("options", &mut item.options),
    ];
    all.into_iter().filter_map(|(method, operation)| Some((method, operation.as_mut()?)))
}

const HOST_REQUEST: &str = "CreateHostRequest";

/// Only a byoc host has a team, which one schema can't say: the request is one of two.
fn split_host_request(components: &mut Components) {
    let Some(RefOr::T(Schema::Object(whole))) = components.schemas.get(HOST_REQUEST) else { return };
    let of_type = |name: &str| {
        RefOr::T(Schema::Object(ObjectBuilder::new().schema_type(Type::String).enum_values(Some([name])).build()))
    };
    let (mut regular, mut byoc) = (whole.clone(), whole.clone());
    let nothing = RefOr::T(Schema::Object(ObjectBuilder::new().schema_type(Type::Null).build()));
    regular.properties.insert("team_id".to_owned(), nothing);
    regular.properties.insert("type".to_owned(), of_type("regular"));
    byoc.properties.insert("type".to_owned(), of_type("byoc"));
    byoc.required.push("type".to_owned());
    let mut either = OneOfBuilder::new().description(whole.description.clone());
    for (name, one) in [("CreateRegularHost", regular), ("CreateByocHost", byoc)] {
        components.schemas.insert(name.to_owned(), RefOr::T(Schema::Object(one)));
        either = either.item(Ref::from_schema_name(name));
    }
    components.schemas.insert(HOST_REQUEST.to_owned(), RefOr::T(Schema::OneOf(either.build())));
}

/// Unique by nature, for generated clients: `post_sandboxes_id_pause`. (The handlers' names are not: many are `list`.)
fn operation_id(method: &str, path: &str) -> String {
    let path = path.strip_prefix("/v1").unwrap_or(path);
    let words = path.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    std::iter::once(method).chain(words).collect::<Vec<_>>().join("_")
}

/// A body of which nothing is required may be left out: an empty one counts as `{}`.
fn optional_body(operation: &mut Operation, lenient: &BTreeSet<String>) {
    let Some(RefOr::T(body)) = &mut operation.request_body else { return };
    let Some(RefOr::T(content)) = body.content.get("application/json") else { return };
    let Some(RefOr::Ref(schema)) = &content.schema else { return };
    if schema.ref_location.rsplit('/').next().is_some_and(|name| lenient.contains(name)) {
        body.required = Some(Required::False);
    }
}

fn complete_operation(path: &str, operation: &mut Operation) {
    let mut statuses = vec!["400", "500", "503", "504"];
    if operation.security.is_some() {
        statuses.extend(["401", "403"]);
    }
    if path.contains('{') {
        statuses.push("404");
    }
    if operation.request_body.is_some() {
        statuses.extend(["413", "415"]);
    }
    let responses = &mut operation.responses.responses;
    for status in statuses {
        responses.entry(status.to_owned()).or_insert_with(|| RefOr::T(Response::new("")));
    }
    for (status, response) in responses {
        let RefOr::T(response) = response else { continue };
        if status.starts_with(['4', '5']) && response.content.is_empty() {
            let content = ContentBuilder::new().schema(Some(Ref::from_schema_name("ErrorBody"))).build();
            let description = if response.description.is_empty() { error_text(status) } else { &response.description };
            *response = ResponseBuilder::new().description(description).content("application/json", content).build();
        } else if response.description.is_empty() {
            response.description = "Done".to_owned();
        }
    }
}

fn error_text(status: &str) -> &'static str {
    match status {
        "400" => "The request is not valid; `error.field` names what is wrong",
        "401" => "Missing or invalid credentials",
        "403" => "Not allowed",
        "404" => "There is no such thing, or it belongs to another team",
        "409" => "Not possible in its present state",
        "410" => "The host has been deleted",
        "413" => "Too large",
        "415" => "Not a content type of this route",
        "429" => "Too much; `Retry-After` says when to try again",
        "502" => "The sandbox's host failed",
        "503" => "Not possible at the moment",
        "504" => "Not done in time",
        "507" => "No space left",
        _ => "Something went wrong on our side; the log has it under `error.request_id`",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operations_id_says_method_and_path() {
        assert_eq!(operation_id("post", "/v1/sandboxes/{id}/files/stream/read"), "post_sandboxes_id_files_stream_read");
        assert_eq!(operation_id("get", "/healthz"), "get_healthz");
    }
}
