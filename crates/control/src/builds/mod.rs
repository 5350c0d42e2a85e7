//! Building templates: a recipe, carried out in a real sandbox on a host, becomes layers that the template stands on.
//!
//! [`recipe`] says what is to be built, [`run`] builds it when it has its [turn](turns), [`inside`] does the steps in the
//! sandbox, [`expand`] fills in variables, [`log`] tells how it goes, [`store`] has the SQL. Each `RUN` and `COPY` ends
//! with a layer, remembered under a hash over all that came before it: a later build begins at the last step that it
//! shares with an earlier one. A build's sandbox is control's own: lists don't show it, and it goes with its build, however
//! that ends. A build whose replica dies ends as `error`.

pub mod assignments;
mod expand;
mod ground;
mod inside;
pub mod lines;
mod log;
mod memory;
mod plan;
#[cfg(test)]
mod public_tests;
pub mod recipe;
mod run;
mod steps;
pub mod store;
pub mod tags;
#[cfg(test)]
mod tests;
mod tickets;
mod turns;

use std::time::Duration;

use atoll_model::{BuildId, TeamId, TemplateId};
use secrecy::SecretString;
use serde_json::json;
use sqlx::types::Json;
use std::collections::BTreeMap;

use crate::audit::{self, Entry};
use crate::clock::Clock;
use crate::db::{Db, DbError, Text, Tx};
use crate::layers::{self, Layers};
use crate::objects::ObjectError;
use crate::oci::{Login, Puller};
use crate::sandboxes::{Owner, Sandboxes};
use crate::templates::store::{self as templates, Template};
use recipe::Recipe;
use store::BuildRow;

pub const KIND: &str = "template";
/// What a template's bare name means.
pub const DEFAULT_TAG: &str = "default";
/// What a sandbox of a build is marked with.
pub const PURPOSE: &str = "build";
/// Of one team, under way at once.
const MAX_BUILDS: i64 = 10;
/// Built at once by this replica; others wait.
const AT_ONCE: usize = 4;
/// Of one team.
const AT_ONCE_OF_A_TEAM: usize = 2;
/// A build without a sign of life for so long is nobody's.
const ABANDONED: Duration = Duration::from_secs(60);
/// Files for `COPY` are kept for so long.
const FILES_KEPT: Duration = Duration::from_secs(24 * 3600);
/// Builds of one team that were reserved and not begun.
const MAX_RESERVED: i64 = 100;
/// A ticket lets files in for so long.
const TICKET_FOR: Duration = Duration::from_secs(3600);
/// A reserved build can be begun for so long.
const RESERVED_FOR: Duration = FILES_KEPT;
/// Built steps that nobody used for so long are forgotten.
const STEPS_KEPT: Duration = Duration::from_secs(14 * 24 * 3600);

#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    #[error("there is no such {0}")]
    NotFound(&'static str),
    #[error("`{0}` is the platform's: only its operator can change it")]
    Platform(String),
    #[error("`{0}` is the name of a snapshot")]
    NameTaken(String),
    #[error("{limit} builds of the team are under way or reserved already")]
    TooMany { limit: i64 },
    #[error("the build is over")]
    Over,
    #[error("the build was begun already")]
    Begun,
    #[error("it stands on what machines of the team's own have written, which no other team's sandboxes are made of")]
    OfOwnMachines,
    #[error("`{0}` is the tag that a template's bare name means, and stays")]
    DefaultTag(String),
    #[error(transparent)]
    Db(#[from] DbError),
}

/// A build by the name of its template and maybe a tag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    pub name: String,
    pub tag: Option<String>,
}

impl Target {
    /// The tag; where none was named, the one that a bare name means.
    #[must_use]
    pub fn tag(&self) -> &str {
        self.tag.as_deref().unwrap_or(DEFAULT_TAG)
    }
}

/// What is asked for, checked.
#[derive(Debug, Clone)]
pub struct NewBuild {
    pub name: String,
    pub tags: Vec<String>,
    pub recipe: Recipe,
    pub login: Option<Login>,
    pub vcpus: Option<u32>,
    pub memory_mb: Option<u64>,
    pub disk_mb: Option<u64>,
}

/// The service. Cheap to clone.
#[derive(Clone)]
pub struct Builds {
    pub(super) db: Db,
    pub(super) clock: Clock,
    pub(super) sandboxes: Sandboxes,
    pub(super) layers: Layers,
    pub(super) puller: Puller,
    pub(super) replica: String,
    pub(super) turns: turns::Turns,
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

impl Builds {
    #[must_use]
    pub fn new(db: Db, clock: Clock, sandboxes: Sandboxes, layers: Layers, puller: Puller, replica: String) -> Self {
        let turns = turns::Turns::new(AT_ONCE, AT_ONCE_OF_A_TEAM);
        Self { db, clock, sandboxes, layers, puller, replica, turns }
    }

    /// Begins a build of the team's template of this name, which is made when there is none. The build goes on by itself.
    pub async fn start(&self, owner: &Owner, new: NewBuild) -> Result<(Template, BuildRow), BuildError> {
        let mut tx = self.db.begin().await?;
        if store::under_way(&mut tx, &owner.team).await? >= MAX_BUILDS {
            return Err(BuildError::TooMany { limit: MAX_BUILDS });
        }
        let (template, build) = self.insert(&mut tx, owner, &new, &self.replica).await?;
        tx.commit().await?;
        self.go_on(owner, &build, new.login);
        Ok((template, build))
    }

    /// Makes a build, and the template where there is none, for a client that says later what is to be built
    /// ([`Builds::begin`]). What `new` has for a recipe is kept for who begins it, and counts for nothing else. With
    /// `public`, the template is published as well, or made the team's alone again: all of it or nothing.
    pub async fn reserve(
        &self,
        owner: &Owner,
        new: NewBuild,
        public: Option<bool>,
    ) -> Result<(Template, BuildRow), BuildError> {
        let of_own_machines = match public {
            Some(true) => match templates::find(&self.db, &new.name, &owner.team).await? {
                Some(found) => self.is_of_own_machines(&found).await?,
                None => false,
            },
            _ => false,
        };
        let mut tx = self.db.begin().await?;
        if store::reserved(&mut tx, &owner.team).await? >= MAX_RESERVED {
            return Err(BuildError::TooMany { limit: MAX_RESERVED });
        }
        let (mut template, build) = self.insert(&mut tx, owner, &new, store::NOBODY).await?;
        if let Some(public) = public {
            template = self.set_public(&mut tx, owner, template, public, of_own_machines).await?;
        }
        tx.commit().await?;
        Ok((template, build))
    }

    /// Begins a reserved build. It goes on by itself.
    pub async fn begin(
        &self,
        owner: &Owner,
        template: &str,
        build: &BuildId,
        recipe: Recipe,
        login: Option<Login>,
    ) -> Result<(), BuildError> {
        let mut row = self.build(owner, template, build).await?;
        let now = self.clock.now();
        let mut tx = self.db.begin().await?;
        if store::under_way(&mut tx, &owner.team).await? >= MAX_BUILDS {
            return Err(BuildError::TooMany { limit: MAX_BUILDS });
        }
        if !store::begin(&mut tx, build, &recipe, &self.replica, now).await? {
            return Err(BuildError::Begun);
        }
        tx.commit().await?;
        row.spec = Json(recipe);
        self.go_on(owner, &row, login);
        Ok(())
    }

    fn go_on(&self, owner: &Owner, build: &BuildRow, login: Option<Login>) {
        let (service, owner, row) = (self.clone(), owner.clone(), build.clone());
        self.sandboxes.tasks().spawn(async move { service.run(&owner, row, login).await });
    }

    async fn insert(
        &self,
        tx: &mut Tx,
        owner: &Owner,
        new: &NewBuild,
        replica: &str,
    ) -> Result<(Template, BuildRow), BuildError> {
        let now = self.clock.now();
        let template = match templates::own(tx, &new.name, &owner.team).await? {
            Some(template) if template.kind == KIND => template,
            Some(_) => return Err(BuildError::NameTaken(new.name.clone())),
            None => {
                let template = Template {
                    id: Text(TemplateId::new()),
                    team_id: Some(Text(owner.team.clone())),
                    name: new.name.clone(),
                    // Nothing yet: sandboxes can't be made from it.
                    digest: String::new(),
                    size_bytes: 0,
                    driver: "auto".to_owned(),
                    vcpus: new.vcpus.map(i64::from),
                    memory_mb: new.memory_mb.map(signed),
                    disk_mb: new.disk_mb.map(signed),
                    default_user: "root".to_owned(),
                    default_workdir: "/".to_owned(),
                    env: Json(BTreeMap::new()),
                    start_cmd: None,
                    ready_cmd: None,
                    kind: KIND.to_owned(),
                    public: false,
                    created_at: now,
                    updated_at: now,
                };
                templates::insert(tx, &template, owner.actor.id(), None).await?;
                template
            }
        };
        let build = BuildRow {
            id: Text(BuildId::new()),
            template_id: template.id.clone(),
            team_id: Text(owner.team.clone()),
            status: "waiting".to_owned(),
            spec: Json(new.recipe.clone()),
            tags: Json(new.tags.clone()),
            owner: replica.to_owned(),
            reason: None,
            step: None,
            vcpus: new.vcpus.map(i64::from),
            memory_mb: new.memory_mb.map(signed),
            disk_mb: new.disk_mb.map(signed),
            created_at: now,
            finished_at: None,
        };
        // Nobody looks after a reserved build: it is abandoned when its time is over.
        let alive_at = if build.is_reserved() { now + RESERVED_FOR } else { now };
        store::insert(tx, &build, alive_at, owner.actor.id()).await?;
        let details = json!({ "name": template.name, "build": build.id.as_str() });
        audit::record(tx, now, &entry(owner, "template.build", template.id.as_str(), details)).await?;
        Ok((template, build))
    }

    /// Asks a build to end. It does so within a second or two.
    pub async fn cancel(&self, owner: &Owner, template: &str, build: &BuildId) -> Result<(), BuildError> {
        let row = self.build(owner, template, build).await?;
        let mut tx = self.db.begin().await?;
        if !store::cancel(&mut tx, &row.id.0).await? {
            return Err(BuildError::Over);
        }
        let details = json!({ "build": build.as_str() });
        let target = row.template_id.as_str();
        audit::record(&mut tx, self.clock.now(), &entry(owner, "template.cancel", target, details)).await?;
        Ok(tx.commit().await?)
    }

    /// A build of a template of the team.
    pub async fn build(&self, owner: &Owner, template: &str, build: &BuildId) -> Result<BuildRow, BuildError> {
        let template = self.template(owner, template).await?;
        let row = store::get(&self.db, &owner.team, &template.id.0, build).await?;
        row.ok_or(BuildError::NotFound("build"))
    }

    /// A template that the team can see.
    pub async fn template(&self, owner: &Owner, name_or_id: &str) -> Result<Template, BuildError> {
        let found = templates::find(&self.db, name_or_id, &owner.team).await?;
        found.filter(|template| template.kind == KIND).ok_or(BuildError::NotFound("template"))
    }

    /// Gives the build that `name[:tag]` means these tags too. Answers that build.
    pub async fn tag(&self, owner: &Owner, target: &Target, tags: &[String]) -> Result<BuildId, BuildError> {
        let template = self.own_template(owner, &target.name).await?;
        let now = self.clock.now();
        let mut tx = self.db.begin().await?;
        let id = tags::build_of(&mut tx, &template.id.0, target.tag()).await?;
        let id = id.ok_or(BuildError::NotFound("tag"))?;
        for tag in tags {
            tags::set(&mut tx, &template.id.0, tag, &id, now).await?;
        }
        if tags.iter().any(|tag| tag == DEFAULT_TAG) {
            store::point_template_to(&mut tx, &template.id.0, &id, now).await?;
            let chain = self.layers.chain(id.as_str()).await?;
            layers::store::refer(&mut tx, template.id.as_str(), &chain).await?;
        }
        tags::release_untagged(&mut tx, &template.id.0).await?;
        let details = json!({ "build": id.as_str(), "tags": tags });
        audit::record(&mut tx, now, &entry(owner, "template.tag", template.id.as_str(), details)).await?;
        tx.commit().await?;
        self.layers.nudge();
        Ok(id)
    }

    /// Takes tags from a team's template. Builds that have none left go when nobody stands on them any more.
    pub async fn untag(&self, owner: &Owner, name: &str, tags: &[String]) -> Result<(), BuildError> {
        if tags.iter().any(|tag| tag == DEFAULT_TAG) {
            return Err(BuildError::DefaultTag(DEFAULT_TAG.to_owned()));
        }
        let template = self.own_template(owner, name).await?;
        let mut tx = self.db.begin().await?;
        for tag in tags {
            if !tags::remove(&mut tx, &template.id.0, tag).await? {
                return Err(BuildError::NotFound("tag"));
            }
        }
        tags::release_untagged(&mut tx, &template.id.0).await?;
        let details = json!({ "tags": tags });
        let entry = entry(owner, "template.untag", template.id.as_str(), details);
        audit::record(&mut tx, self.clock.now(), &entry).await?;
        tx.commit().await?;
        self.layers.nudge();
        Ok(())
    }

    /// A template of the team's own, for a change of it.
    async fn own_template(&self, owner: &Owner, name_or_id: &str) -> Result<Template, BuildError> {
        let template = self.template(owner, name_or_id).await?;
        if template.team_id.is_none() { Err(BuildError::Platform(template.name)) } else { Ok(template) }
    }

    /// Publishes a team's template to all teams, or makes it the team's alone again: what others have made of it lives on.
    pub async fn publish(&self, owner: &Owner, name_or_id: &str, public: bool) -> Result<Template, BuildError> {
        let found = self.own_template(owner, name_or_id).await?;
        self.publish_found(owner, &found, public).await
    }

    async fn publish_found(&self, owner: &Owner, found: &Template, public: bool) -> Result<Template, BuildError> {
        let of_own_machines = public && self.is_of_own_machines(found).await?;
        let mut tx = self.db.begin().await?;
        // It may have been deleted meanwhile.
        let own = templates::own(&mut tx, found.id.as_str(), &owner.team).await?.filter(|row| row.kind == KIND);
        let row = own.ok_or(BuildError::NotFound("template"))?;
        let row = self.set_public(&mut tx, owner, row, public, of_own_machines).await?;
        tx.commit().await?;
        Ok(row)
    }

    /// Whether machines of the team's own have written what it stands on. Asked before a transaction, for it takes another
    /// connection: a build that is ready only then is refused where it is used.
    async fn is_of_own_machines(&self, template: &Template) -> Result<bool, DbError> {
        Ok(self.layers.chain(template.id.as_str()).await?.iter().any(|layer| layer.byoc))
    }

    async fn set_public(
        &self,
        tx: &mut Tx,
        owner: &Owner,
        row: Template,
        public: bool,
        of_own_machines: bool,
    ) -> Result<Template, BuildError> {
        if row.public == public {
            return Ok(row);
        }
        if public && of_own_machines {
            return Err(BuildError::OfOwnMachines);
        }
        let now = self.clock.now();
        templates::set_public(tx, &row.id.0, public, now).await?;
        let action = if public { "template.publish" } else { "template.unpublish" };
        let details = json!({ "name": row.name });
        audit::record(tx, now, &entry(owner, action, row.id.as_str(), details)).await?;
        Ok(Template { public, updated_at: now, ..row })
    }

    /// Deletes a team's template with its builds. Sandboxes that were made from it live on.
    pub async fn delete(&self, owner: &Owner, name_or_id: &str) -> Result<(), BuildError> {
        let mut tx = self.db.begin().await?;
        let own = templates::own(&mut tx, name_or_id, &owner.team).await?.filter(|row| row.kind == KIND);
        let Some(row) = own else {
            drop(tx);
            let found = self.template(owner, name_or_id).await?;
            return Err(BuildError::Platform(found.name));
        };
        store::remove_all(&mut tx, &row.id.0).await?;
        layers::store::release(&mut tx, row.id.as_str()).await?;
        templates::delete(&mut tx, &row.id.0).await?;
        let details = json!({ "name": row.name });
        audit::record(&mut tx, self.clock.now(), &entry(owner, "template.delete", row.id.as_str(), details)).await?;
        tx.commit().await?;
        self.layers.nudge();
        Ok(())
    }

    /// As what the files of a `COPY` wait in the object store: the team's own, by the hash that the client gives them.
    #[must_use]
    pub fn context_key(team: &TeamId, hash: &str) -> String {
        format!("{}-{hash}", team.tail())
    }

    /// A permission for whoever has it to upload the files of a `COPY` once or more, for an hour.
    pub async fn upload_ticket(&self, owner: &Owner, hash: &str) -> Result<SecretString, BuildError> {
        let secret = hex::encode(rand::random::<[u8; 16]>());
        let until = self.clock.now() + TICKET_FOR;
        tickets::insert(&self.db, &tickets::hash(&secret), &owner.team, hash, until).await?;
        Ok(secret.into())
    }

    /// Whose files, and which, a ticket lets in.
    pub async fn by_ticket(&self, ticket: &str) -> Result<(TeamId, String), BuildError> {
        let found = tickets::find(&self.db, &tickets::hash(ticket), self.clock.now()).await?;
        found.ok_or(BuildError::NotFound("upload"))
    }

    /// Ends builds that nobody runs any more, and forgets steps that nobody needs. At a start of a control plane that
    /// is alone (`alone`), all builds are nobody's.
    ///
    /// # Errors
    /// The database's.
    pub async fn tend(&self, alone: bool) -> Result<(), DbError> {
        let now = self.clock.now();
        let before = if alone { now } else { now - ABANDONED };
        for build in store::abandoned(&self.db, before).await? {
            let reason = if build.is_reserved() {
                "it was not begun within a day"
            } else {
                tracing::warn!(build = %build.id.0, "a build was interrupted");
                "the server that built it was interrupted"
            };
            store::fail(&self.db, &build.id.0, "error", reason, None, now).await?;
        }
        for sandbox in self.sandboxes.left_by_builds().await? {
            self.sandboxes.destroy_now(&sandbox, "build_over").await;
        }
        tickets::forget(&self.db, now).await?;
        steps::forget(&self.db, now - STEPS_KEPT).await
    }

    /// Deletes files that nobody will copy any more. Looks through the whole store.
    ///
    /// # Errors
    /// The store's.
    pub async fn sweep_files(&self) -> Result<(), ObjectError> {
        self.layers.objects().sweep_files(FILES_KEPT).await
    }
}

fn entry<'a>(owner: &'a Owner, action: &'static str, target: &'a str, details: serde_json::Value) -> Entry<'a> {
    Entry {
        team: Some(&owner.team),
        actor: &owner.actor,
        origin: &owner.origin,
        action,
        target_kind: "template",
        target_id: Some(target),
        result: "ok",
        details,
    }
}
