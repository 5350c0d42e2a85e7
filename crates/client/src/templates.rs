//! Templates and their builds.

use std::time::Duration;

use atoll_model::BuildId;
use atoll_model::api::Page;
use atoll_model::api::templates::{Build, CreateTemplateRequest, StartedBuild, Template, UpdateTemplateRequest};
use bytes::Bytes;
use http::Method;
use http_body_util::{BodyExt, Full};

use crate::transport::{DEADLINE, encode, query};
use crate::{Client, Error};

/// Files for a build may be many.
const UPLOAD_DEADLINE: Duration = Duration::from_secs(3600);

fn of(name: &str, rest: &str) -> String {
    format!("/v1/templates/{}{rest}", encode(name))
}

impl Client {
    /// Begins a build; it goes on by itself.
    pub async fn build_template(&self, request: &CreateTemplateRequest) -> Result<StartedBuild, Error> {
        self.post("/v1/templates", request).await
    }

    pub async fn list_templates(&self, cursor: Option<&str>) -> Result<Page<Template>, Error> {
        let query = query(&[("limit", Some("1000".to_owned())), ("cursor", cursor.map(str::to_owned))]);
        self.get(&format!("/v1/templates{query}")).await
    }

    pub async fn get_template(&self, name: &str) -> Result<Template, Error> {
        self.get(&of(name, "")).await
    }

    pub async fn delete_template(&self, name: &str) -> Result<(), Error> {
        self.json(Method::DELETE, &of(name, ""), None::<&()>, DEADLINE).await
    }

    /// Publishes it to all teams, or makes it the team's alone again.
    pub async fn publish_template(&self, name: &str, public: bool) -> Result<Template, Error> {
        let update = UpdateTemplateRequest { public: Some(public) };
        self.json(Method::PATCH, &of(name, ""), Some(&update), DEADLINE).await
    }

    pub async fn get_build(&self, name: &str, build: &BuildId) -> Result<Build, Error> {
        self.get(&of(name, &format!("/builds/{build}"))).await
    }

    pub async fn list_builds(&self, name: &str) -> Result<Page<Build>, Error> {
        self.get(&of(name, "/builds?limit=1000")).await
    }

    pub async fn cancel_build(&self, name: &str, build: &BuildId) -> Result<(), Error> {
        self.json(Method::DELETE, &of(name, &format!("/builds/{build}")), None::<&()>, DEADLINE).await
    }

    /// Follows a build's log to its end; `event` gets the name and the data of each server-sent event.
    pub async fn follow_build(
        &self,
        name: &str,
        build: &BuildId,
        mut event: impl FnMut(&str, &str),
    ) -> Result<(), Error> {
        let mut rest: Vec<u8> = Vec::new();
        let path = of(name, &format!("/builds/{build}/logs"));
        let nothing = Full::new(Bytes::new()).map_err(|never| match never {}).boxed_unsync();
        let mut body = self.send(Method::GET, &path, None, nothing).await?.into_body();
        let what = crate::transport::what(&Method::GET, &path);
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| self.broken(&what, &error))?;
            let Ok(chunk) = frame.into_data() else { continue };
            rest.extend_from_slice(&chunk);
            while let Some(end) = rest.windows(2).position(|pair| pair == b"\n\n") {
                let whole = String::from_utf8_lossy(&rest[..end]).into_owned();
                rest.drain(..end + 2);
                let field = |field: &str| whole.lines().find_map(|line| line.strip_prefix(field));
                if let (Some(name), Some(data)) = (field("event: "), field("data: ")) {
                    event(name, data);
                }
            }
        }
        Ok(())
    }

    /// Uploads the files that a recipe's COPY takes from: a tar archive.
    pub async fn upload_template_files(&self, hash: &str, archive: Bytes) -> Result<(), Error> {
        let path = format!("/v1/templates/files/{hash}");
        self.whole(Method::PUT, &path, "application/octet-stream", archive, UPLOAD_DEADLINE).await.map(|_| ())
    }
}
