//! The forms of texts and numbers in the OpenAPI document: what `validate` and its like take, as patterns and lengths, so
//! that what fits the document is accepted and what doesn't is refused. A property-based tool checks both
//! (`scripts/fuzz.sh`). A form that is named here for a field that is not there fails the test below.

use std::collections::BTreeSet;

use utoipa::openapi::path::Operation;
use utoipa::openapi::schema::{AdditionalProperties, ArrayItems, Object, Schema, SchemaType, Type};
use utoipa::openapi::{Components, OpenApi, RefOr};

use super::openapi::operations;
use super::page::CURSOR;

/// Lengths in characters, and a pattern.
#[derive(Debug, Clone, Copy)]
pub struct Form {
    shortest: usize,
    longest: Option<usize>,
    pattern: Option<&'static str>,
}

const fn form(shortest: usize, longest: usize, pattern: &'static str) -> Form {
    Form { shortest, longest: Some(longest), pattern: Some(pattern) }
}

/// No control characters.
const PLAIN: &str = "^[^\\u0000-\\u001F\\u007F-\\u009F]*$";

const fn line(longest: usize) -> Form {
    form(1, longest, PLAIN)
}

/// What every text of a request is at least (`extract`).
const NUL_FREE: &str = "^[^\\u0000]*$";

const EMAIL: Form = form(3, 254, "^[^\\s,\\u0000-\\u001F\\u007F-\\u009F]+@[^\\s,@\\u0000-\\u001F\\u007F-\\u009F]+$");
const PASSWORD: Form = form(8, 1024, NUL_FREE);
const HEX_64: Form = form(64, 64, "^[0-9a-f]{64}$");
/// Of a file: PATH_MAX and NAME_MAX of Linux count bytes, which a pattern can't.
const PATH: Form = Form { shortest: 1, longest: None, pattern: Some("^[^\\u0000]+$") };
const UNIX_USER: Form = form(1, 32, "^[^:\\u0000-\\u001F\\u007F-\\u009F]+$");
const SIGNAL: Form = form(1, 9, "^([1-9]|[1-5][0-9]|6[0-4]|(SIG)?(HUP|INT|QUIT|KILL|USR1|USR2|TERM|CONT|STOP))$");
const SESSION: Form = form(5, 6, "^(cookie|token)$");
/// Printable ASCII. Space at its ends is lost on the way, as in every header.
const IDEMPOTENCY_KEY: Form = form(1, 255, "^[ -~]+$");
/// The characters of its path and query are those of RFC 3986.
const WEB_ADDRESS: Form = form(
    8,
    2000,
    "^https?://[a-z0-9]([a-z0-9-]*[a-z0-9])?(\\.[a-z]([a-z0-9-]*[a-z0-9])?)+\
     (/([A-Za-z0-9._~!$&'()*+,;=:@/?-]|%[0-9A-Fa-f]{2})*)?$",
);

/// Of a template or a snapshot.
const IMAGE_NAME: Form = form(1, 64, "^[a-z0-9][a-z0-9-]*$");
const SECRET_NAME: Form = form(1, 64, "^[A-Za-z0-9][A-Za-z0-9_.-]*$");
/// It stands in braces.
const IDENTITY_NAME: Form = form(1, 128, "^[^{}\\u0000-\\u001F\\u007F-\\u009F]*$");
/// Bounded in bytes, which a pattern can't count.
const SECRET: Form = Form { shortest: 1, longest: None, pattern: Some("^[^\\u0000]+$") };
/// From five minutes to thirty days.
const RANGE: Form =
    form(2, 5, "^(([5-9]|[1-9][0-9]{1,3})m|([1-9][0-9]?|[1-6][0-9][0-9]|7[01][0-9]|720)h|([1-9]|[12][0-9]|30)d)$");
/// A kind, or a type of event.
const EVENT: Form = form(4, 64, "^(sandbox|host|template|snapshot|api_key|team|member|webhook)(\\.[a-z_]+)?$");

const LABEL_KEY: Form = form(1, 128, "^[^\\u0000]+$");
const LABEL: Form = form(0, 1024, NUL_FREE);
/// Of a build, with a tag or without.
const BUILD_NAME: Form = form(1, 193, "^[a-z0-9_][a-z0-9_-]{0,127}(:[a-z0-9_.-]{1,64})?$");
const TAG: Form = form(1, 64, "^[a-z0-9_.-]+$");
const VARIABLE: Form = Form { shortest: 1, longest: None, pattern: Some("^[^=\\u0000]+$") };
const NO_NUL: Form = Form { shortest: 0, longest: None, pattern: Some(NUL_FREE) };
/// An IPv4 address or network, or a name with a letter.
const RULE: Form = form(
    1,
    253,
    "^(((25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])\\.){3}(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])\
     (/(3[0-2]|[12]?[0-9]))?|(\\*\\.)?([A-Za-z0-9_-]{1,63}\\.)*[A-Za-z0-9_-]{0,31}[A-Za-z][A-Za-z0-9_-]{0,31}\
     (\\.[A-Za-z0-9_-]{1,63})*)$",
);
/// A name with a letter, or all below it.
const NAME_RULE: Form = form(
    1,
    253,
    "^(\\*\\.)?([A-Za-z0-9_-]{1,63}\\.)*[A-Za-z0-9_-]{0,31}[A-Za-z][A-Za-z0-9_-]{0,31}\
     (\\.[A-Za-z0-9_-]{1,63})*$",
);
/// None of those that belong to a connection: they begin with other letters, or have a hyphen.
const HEADER_NAME: Form = form(1, 128, "^(X-[A-Za-z0-9-]{1,100}|[Aa]uthorization|[Aa]pi-[Kk]ey|[Cc]ookie)$");
const HEADER_VALUE: Form = form(0, 8192, "^[ -~]*$");
/// A name with a letter, or an IPv4 address.
const HOST: Form = form(1, 253, "^[A-Za-z0-9._-]+$");
const HOST_AND_PORT: Form = form(3, 259, "^[A-Za-z0-9._-]+:[1-9][0-9]{0,4}$");
/// Bounded in bytes, which a pattern can't count.
const LOGIN: Form = form(0, 255, NUL_FREE);
const LOGIN_WITH_SECRETS: Form = form(0, 1024, "^[^\\u0000\\r\\n]*$");
/// Absolute, without `.` and `..`, and not the system's.
const MOUNT_PATH: Form = form(
    2,
    255,
    "^(?!/(proc|sys|dev)(/|$))(/([^/\\u0000.][^/\\u0000]*|\\.[^/\\u0000.][^/\\u0000]*|\\.\\.[^/\\u0000]+))+$",
);

/// Parameters, by name, wherever they are.
const PARAMETERS: [(&str, Form); 16] = [
    ("action", line(100)),
    ("actor", line(100)),
    ("cursor", form(2, 85, CURSOR)),
    ("Idempotency-Key", IDEMPOTENCY_KEY),
    ("X-Session", SESSION),
    ("hash", HEX_64),
    ("path", PATH),
    ("process", line(128)),
    ("q", line(100)),
    ("range", RANGE),
    ("resource", line(100)),
    ("resource_kind", line(100)),
    ("result", line(100)),
    ("signal", SIGNAL),
    ("template", line(128)),
    ("user", UNIX_USER),
];

/// Fields of request bodies.
const FIELDS: [(&str, &str, Form); 70] = [
    ("AcceptInvitationRequest", "name", line(100)),
    ("AcceptInvitationRequest", "password", PASSWORD),
    ("AddMemberRequest", "email", EMAIL),
    ("AddedHeader", "domain", NAME_RULE),
    ("AddedHeader", "name", HEADER_NAME),
    ("AddedHeader", "value", HEADER_VALUE),
    ("ChangePasswordRequest", "new_password", PASSWORD),
    ("CreateApiKeyRequest", "name", line(100)),
    ("CreateByocHost", "availability_zone", line(100)),
    ("CreateByocHost", "name", line(100)),
    ("CreateByocHost", "provider", line(100)),
    ("CreateRegularHost", "availability_zone", line(100)),
    ("CreateRegularHost", "name", line(100)),
    ("CreateRegularHost", "provider", line(100)),
    ("CreateSandboxRequest", "template", line(257)),
    ("CreateSecretRequest", "name", SECRET_NAME),
    ("CreateSecretRequest", "value", SECRET),
    ("CreateSnapshotRequest", "name", IMAGE_NAME),
    ("CreateTeamRequest", "name", line(100)),
    ("CreateTemplateRequest", "context", HEX_64),
    ("CreateTemplateRequest", "name", BUILD_NAME),
    ("CreateTemplateRequest", "tags", TAG),
    ("CreateUserRequest", "email", EMAIL),
    ("CreateUserRequest", "name", line(100)),
    ("CreateVolumeRequest", "name", IMAGE_NAME),
    ("CreateWebhookRequest", "events", EVENT),
    ("CreateWebhookRequest", "url", WEB_ADDRESS),
    ("DeviceRequest", "client_name", line(100)),
    ("EgressProxy", "address", HOST_AND_PORT),
    ("EgressProxy", "password", LOGIN_WITH_SECRETS),
    ("EgressProxy", "username", LOGIN),
    ("EgressProxyTls", "ca_cert", SECRET),
    ("EgressProxyTls", "server_name", HOST),
    ("ExecRequest", "args", NO_NUL),
    ("ExecRequest", "cmd", PATH),
    ("ExecRequest", "cwd", PATH),
    ("ExecRequest", "tag", line(128)),
    ("ExecRequest", "user", UNIX_USER),
    ("HostTags", "tags", line(64)),
    ("IdentityTokenRequest", "name", IDENTITY_NAME),
    ("InviteRequest", "email", EMAIL),
    ("ListFilesRequest", "path", PATH),
    ("ListFilesRequest", "user", UNIX_USER),
    ("MoveFileRequest", "destination", PATH),
    ("MoveFileRequest", "source", PATH),
    ("MoveFileRequest", "user", UNIX_USER),
    ("NetworkPolicy", "allow_out", RULE),
    ("NetworkPolicy", "deny_out", RULE),
    ("PathRequest", "path", PATH),
    ("PathRequest", "user", UNIX_USER),
    ("RegistryLogin", "password", line(8192)),
    ("RegistryLogin", "username", line(256)),
    ("ResetConfirmRequest", "password", PASSWORD),
    ("ResetRequest", "email", EMAIL),
    ("SetNetworkRequest", "allow_out", RULE),
    ("SetNetworkRequest", "deny_out", RULE),
    ("SetupRequest", "email", EMAIL),
    ("SetupRequest", "password", PASSWORD),
    ("SignupRequest", "email", EMAIL),
    ("SignupRequest", "name", line(100)),
    ("SignupRequest", "password", PASSWORD),
    ("UpdateHostRequest", "name", line(100)),
    ("UpdateMeRequest", "name", line(100)),
    ("UpdateTeamRequest", "name", line(100)),
    ("UpdateWebhookRequest", "events", EVENT),
    ("UpdateWebhookRequest", "url", WEB_ADDRESS),
    ("VolumeMount", "path", MOUNT_PATH),
    ("VolumeMount", "volume", line(64)),
    ("WriteFileForm", "path", PATH),
    ("WriteFileForm", "user", UNIX_USER),
];

/// Fields that are maps of texts: how many entries, and the forms of keys and values.
const MAPS: [(&str, &str, usize, Form, Form); 6] = [
    ("CreateSandboxRequest", "env", 1024, VARIABLE, NO_NUL),
    ("CreateSandboxRequest", "identities", 5, IDENTITY_NAME, line(1024)),
    ("CreateSandboxRequest", "metadata", 64, LABEL_KEY, LABEL),
    ("CreateSandboxRequest", "secrets", 64, VARIABLE, SECRET_NAME),
    ("ExecRequest", "env", 1024, VARIABLE, NO_NUL),
    ("ForkRequest", "metadata", 64, LABEL_KEY, LABEL),
];

fn set(object: &mut Object, form: Form) {
    object.min_length = (form.shortest > 0).then_some(form.shortest);
    object.max_length = form.longest;
    object.pattern = form.pattern.map(str::to_owned);
}

/// The schema itself, or that of its items.
fn as_text(schema: &mut RefOr<Schema>) -> Option<&mut Object> {
    match schema {
        RefOr::T(Schema::Object(object)) => Some(object),
        RefOr::T(Schema::Array(array)) => match &mut array.items {
            ArrayItems::RefOrSchema(items) => as_text(items),
            ArrayItems::False => None,
        },
        _ => None,
    }
}

/// Says the forms of an operation's parameters.
pub fn of_parameters(operation: &mut Operation) {
    for parameter in operation.parameters.iter_mut().flatten() {
        let RefOr::T(parameter) = parameter else { continue };
        let Some((_, form)) = PARAMETERS.iter().find(|(name, _)| *name == parameter.name) else {
            if let Some(schema) = &mut parameter.schema {
                nul_free(schema, &mut Vec::new());
            }
            continue;
        };
        if let Some(object) = parameter.schema.as_mut().and_then(as_text) {
            set(object, *form);
            // One that is left out is not there; there is no null in an address or a header.
            object.schema_type = SchemaType::Type(Type::String);
        }
    }
}

/// Says the forms of fields.
pub fn of_fields(components: &mut Components) {
    for (schema, field, form) in FIELDS {
        if let Some(object) = field_of(components, schema, field) {
            set(object, form);
        }
    }
    for (schema, field, most, key, value) in MAPS {
        let Some(map) = field_of(components, schema, field) else { continue };
        map.max_properties = Some(most);
        if let Some(Schema::Object(names)) = map.property_names.as_deref_mut() {
            set(names, key);
        }
        if let Some(AdditionalProperties::RefOr(values)) = map.additional_properties.as_deref_mut()
            && let Some(values) = as_text(values)
        {
            set(values, value);
        }
    }
}

/// Says of every other text in the bodies of requests that it has no NUL byte. Comes after all other forms.
pub fn of_bodies(api: &mut OpenApi) {
    let mut named = Vec::new();
    for (_, operation) in api.paths.paths.values_mut().flat_map(operations) {
        let Some(RefOr::T(body)) = &mut operation.request_body else { continue };
        for content in body.content.iter_mut().filter(|(kind, _)| is_form(kind)).map(|(_, content)| content) {
            if let RefOr::T(content) = content
                && let Some(schema) = &mut content.schema
            {
                nul_free(schema, &mut named);
            }
        }
    }
    let Some(components) = &mut api.components else { return };
    let mut seen = BTreeSet::new();
    while let Some(name) = named.pop() {
        if seen.insert(name.clone())
            && let Some(schema) = components.schemas.get_mut(&name)
        {
            nul_free(schema, &mut named);
        }
    }
}

/// Other bodies are files.
fn is_form(content_type: &str) -> bool {
    matches!(content_type, "application/json" | "multipart/form-data")
}

/// Says it of the texts that this schema has itself, and adds the names of those that it refers to.
fn nul_free(schema: &mut RefOr<Schema>, named: &mut Vec<String>) {
    let schema = match schema {
        RefOr::Ref(other) => {
            return named.extend(other.ref_location.rsplit('/').next().map(str::to_owned));
        }
        RefOr::T(schema) => schema,
    };
    match schema {
        Schema::Array(array) => match &mut array.items {
            ArrayItems::RefOrSchema(items) => nul_free(items, named),
            ArrayItems::False => {}
        },
        Schema::OneOf(one) => one.items.iter_mut().for_each(|item| nul_free(item, named)),
        Schema::AllOf(all) => all.items.iter_mut().for_each(|item| nul_free(item, named)),
        Schema::AnyOf(any) => any.items.iter_mut().for_each(|item| nul_free(item, named)),
        Schema::Object(object) => {
            nul_free_text(object);
            object.properties.values_mut().for_each(|property| nul_free(property, named));
            if let Some(AdditionalProperties::RefOr(values)) = object.additional_properties.as_deref_mut() {
                nul_free(values, named);
                let names =
                    object.property_names.get_or_insert_with(|| Box::new(Object::with_type(Type::String).into()));
                if let Schema::Object(names) = &mut **names {
                    nul_free_text(names);
                }
            }
        }
        _ => {}
    }
}

fn nul_free_text(object: &mut Object) {
    let is_text = match &object.schema_type {
        SchemaType::Type(one) => *one == Type::String,
        SchemaType::Array(several) => several.contains(&Type::String),
        SchemaType::AnyValue => false,
    };
    if is_text && object.pattern.is_none() && object.enum_values.is_none() && object.format.is_none() {
        object.pattern = Some(NUL_FREE.to_owned());
    }
}

fn field_of<'a>(components: &'a mut Components, schema: &str, field: &str) -> Option<&'a mut Object> {
    let object = components.schemas.get_mut(schema).and_then(as_text)?;
    object.properties.get_mut(field).and_then(as_text)
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::db::testing::sqlite;
    use crate::testing::app;

    #[tokio::test]
    async fn every_form_is_said_in_the_document() {
        let test = app(sqlite().await).await;
        let api = test.client.get("/openapi.json").await.json();
        for (schema, field, form) in FIELDS {
            let said = &api["components"]["schemas"][schema]["properties"][field];
            let said = said.get("items").unwrap_or(said);
            assert_eq!(said["pattern"].as_str(), form.pattern, "{schema}.{field}: {said}");
        }
        for (schema, field, most, key, value) in MAPS {
            let said = &api["components"]["schemas"][schema]["properties"][field];
            assert_eq!(said["maxProperties"], most, "{schema}.{field}: {said}");
            assert_eq!(said["propertyNames"]["pattern"].as_str(), key.pattern, "{schema}.{field}: {said}");
            assert_eq!(said["additionalProperties"]["pattern"].as_str(), value.pattern, "{schema}.{field}: {said}");
        }
        for (name, form) in PARAMETERS {
            let paths = api["paths"].as_object().unwrap().values().flat_map(|item| item.as_object().unwrap().values());
            let all = paths.filter_map(|operation| operation["parameters"].as_array()).flatten();
            let named: Vec<_> = all.filter(|parameter| parameter["name"] == name).collect();
            assert!(!named.is_empty(), "no parameter {name}");
            for said in named {
                assert_eq!(said["schema"]["minLength"], form.shortest, "{name}: {said}");
            }
        }
    }

    #[tokio::test]
    async fn every_text_of_a_request_says_what_it_takes() {
        let test = app(sqlite().await).await;
        let api = test.client.get("/openapi.json").await.json();
        let mut vague = Vec::new();
        for (path, item) in api["paths"].as_object().unwrap() {
            for (method, operation) in item.as_object().unwrap() {
                let place = format!("{method} {path}");
                for parameter in operation["parameters"].as_array().into_iter().flatten() {
                    let name = parameter["name"].as_str().unwrap();
                    vague_texts(&api, &format!("{place}: {name}"), &parameter["schema"], 0, &mut vague);
                }
                for (kind, content) in operation["requestBody"]["content"].as_object().into_iter().flatten() {
                    if is_form(kind) {
                        vague_texts(&api, &place, &content["schema"], 0, &mut vague);
                    }
                }
            }
        }
        assert_eq!(vague, Vec::<String>::new());
    }

    /// Adds the texts of a schema that may be anything: each could hold a NUL byte, which is refused.
    fn vague_texts(api: &Value, place: &str, schema: &Value, depth: usize, found: &mut Vec<String>) {
        assert!(depth < 20, "{place} is endless");
        if let Some(name) = schema["$ref"].as_str() {
            let named = api.pointer(name.trim_start_matches('#')).expect(name);
            return vague_texts(api, place, named, depth + 1, found);
        }
        let kind = &schema["type"];
        let is_text = *kind == "string" || kind.as_array().is_some_and(|kinds| kinds.contains(&"string".into()));
        let said = ["enum", "const", "pattern"].iter().any(|form| schema.get(form).is_some())
            || matches!(schema["format"].as_str(), Some("date" | "date-time" | "binary"));
        if is_text && !said {
            found.push(place.to_owned());
        }
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            vague_texts(api, &format!("{place}.{name}"), property, depth + 1, found);
        }
        for part in ["items", "additionalProperties", "propertyNames"] {
            if schema[part].is_object() {
                vague_texts(api, &format!("{place}.{part}"), &schema[part], depth + 1, found);
            }
        }
        for of in ["oneOf", "anyOf", "allOf"] {
            for one in schema[of].as_array().into_iter().flatten() {
                vague_texts(api, place, one, depth + 1, found);
            }
        }
    }
}
