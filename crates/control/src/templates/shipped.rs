//! Templates that ship besides `base`: there by name from the start, and built when they are wanted for the first time.
//!
//! A row without an image stands for one that is not built yet. The first create from it begins the build, on the
//! machine of the replica that was asked, and is told to come back; so is everybody who asks meanwhile. A failed build is
//! told as well, and tried again by whoever asks after a while. [`ahead`] begins it before anybody asks, when the machine
//! has nothing else to do; `atoll template prepare` builds with no server at all.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::build::Haste;
use super::store::{self, Template};
use super::{BaseError, BaseImage, Recipe, ahead, cached, ensure_base, ensure_on};
use crate::clock::Clock;
use crate::db::{Db, DbError, settings};
use crate::objects::{ObjectError, Objects};

/// Other names that programs know a shipped template by; a team's own template of that name comes first.
/// The gateway for MCP of E2B's is not in base, and its SDKs say that when they start it.
const ALIASES: [(&str, &str); 2] = [("code-interpreter-v1", "code-interpreter"), ("mcp-gateway", "base")];
/// After a failure, a build is tried again no sooner.
const TRY_AGAIN: Duration = Duration::from_secs(60);
/// A build that takes longer is ended.
const DEADLINE: Duration = Duration::from_secs(30 * 60);

/// The recipe whose image the row has.
const BUILT_FROM: &str = "code_interpreter_recipe";
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// The name that a template ships under, when `name` is another name of it.
#[must_use]
pub fn ships_as(name: &str) -> Option<&'static str> {
    ALIASES.iter().find(|(alias, _)| *alias == name).map(|(_, name)| *name)
}

/// What sandboxes of the code interpreter are, besides its image.
pub(super) const START_CMD: &str = "/usr/lib/atoll/interpreter/start";
pub(super) const READY_CMD: &str = "curl -fs -o /dev/null http://127.0.0.1:49999/health";
pub(super) const MEMORY_MB: i64 = 1024;

/// The recipes that the binary carries.
#[derive(Debug, Clone)]
pub struct ShippedRecipes {
    pub base: Recipe,
    /// Stands on `base`.
    pub code_interpreter: Recipe,
}

impl ShippedRecipes {
    /// The image of the code interpreter, from the cache or built into it, and that of base before it.
    ///
    /// # Errors
    /// When it can't be built here; the error says what to do.
    pub async fn code_interpreter(
        &self,
        cache_dir: &std::path::Path,
        haste: Haste,
        progress: &(dyn Fn(&str) + Send + Sync),
    ) -> Result<BaseImage, BaseError> {
        if let Some(image) = cached(cache_dir, &self.code_interpreter)? {
            return Ok(image);
        }
        let base = ensure_base(cache_dir, &self.base, progress).await?;
        ensure_on(cache_dir, &self.code_interpreter, Some(&base), haste, progress).await
    }
}

/// Why a shipped template can't be used at the moment.
#[derive(Debug, thiserror::Error)]
pub enum ShippedError {
    #[error(
        "the template `{name}` is used for the first time and is being built: {step} ({seconds} s so far); try again in a \
         moment"
    )]
    BeingBuilt { name: String, step: String, seconds: u64 },
    #[error("the template `{name}` could not be built; it is tried again in a minute: {problem}")]
    Failed { name: String, problem: String },
    #[error(transparent)]
    Db(#[from] DbError),
    #[error("the image of a template that ships could not be stored")]
    Store(#[from] ObjectError),
}

enum State {
    Idle,
    /// `wanted` is cancelled when somebody waits for it.
    Building {
        step: String,
        since: Instant,
        wanted: CancellationToken,
    },
    Failed {
        problem: String,
        at: Instant,
    },
}

/// The shipped templates of one replica. Cheap to clone.
#[derive(Clone)]
pub struct Shipped(Arc<Inner>);

struct Inner {
    db: Db,
    clock: Clock,
    objects: Objects,
    tasks: TaskTracker,
    shutdown: CancellationToken,
    cache_dir: PathBuf,
    recipes: Option<ShippedRecipes>,
    state: Mutex<State>,
}

impl Shipped {
    /// None of them without `recipes`.
    #[must_use]
    pub fn new(
        (db, clock, objects): (Db, Clock, Objects),
        (tasks, shutdown): (TaskTracker, CancellationToken),
        cache_dir: PathBuf,
        recipes: Option<ShippedRecipes>,
    ) -> Self {
        Self(Arc::new(Inner {
            db,
            clock,
            objects,
            tasks,
            shutdown,
            cache_dir,
            recipes,
            state: Mutex::new(State::Idle),
        }))
    }

    /// Makes their rows, with their images where they are in the cache. Builds nothing.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn announce(&self) -> Result<(), ShippedError> {
        let Some(recipes) = &self.0.recipes else { return Ok(()) };
        let image = cached(&self.0.cache_dir, &recipes.code_interpreter).unwrap_or_else(|error| {
            tracing::warn!(%error, "the image cache can't be looked at");
            None
        });
        self.register(&recipes.code_interpreter, image.as_ref()).await.map(|_| ())
    }

    async fn register(&self, recipe: &Recipe, image: Option<&BaseImage>) -> Result<Template, ShippedError> {
        if let Some(image) = image {
            self.share(image).await?;
        }
        let (db, now) = (&self.0.db, self.0.clock.now());
        let template = store::register_shipped(db, recipe.name(), image, now).await?;
        if image.is_some() {
            settings::set(db, BUILT_FROM, &recipe.hash(), now).await?;
        }
        Ok(template)
    }

    /// Has it built when there is time for it, in a task of its own.
    pub fn build_ahead(&self, replica: &str) {
        if self.0.recipes.is_some() {
            let (shipped, replica, shutdown) = (self.clone(), replica.to_owned(), self.0.shutdown.clone());
            self.0.tasks.spawn(async move {
                let pace = ahead::Pace::default();
                tokio::select! {
                    () = ahead::run(&shipped, &replica, &pace) => {}
                    () = shutdown.cancelled() => {}
                }
            });
        }
    }

    /// Whether this replica need not build: the image is here, or another one has put it where all find it.
    pub(super) async fn is_there(&self) -> Result<bool, DbError> {
        let Some(recipes) = &self.0.recipes else { return Ok(true) };
        let hash = recipes.code_interpreter.hash();
        if matches!(cached(&self.0.cache_dir, &recipes.code_interpreter), Ok(Some(_))) {
            return Ok(true);
        }
        Ok(self.0.objects.is_shared()
            && settings::get(&self.0.db, BUILT_FROM).await?.is_some_and(|built| built == hash))
    }

    /// Builds it now, in spare time; to its end, whoever began it.
    ///
    /// # Errors
    /// Why there is no image.
    pub(super) async fn build_in_spare_time(&self) -> Result<(), String> {
        let Some(recipes) = &self.0.recipes else { return Ok(()) };
        if let Some(wanted) = self.claim() {
            self.build(recipes, Haste::Spare(wanted)).await;
        }
        loop {
            match &*self.state() {
                State::Idle => return Ok(()),
                State::Failed { problem, .. } => return Err(problem.clone()),
                State::Building { .. } => {}
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    pub(super) fn db(&self) -> (&Db, &Clock) {
        (&self.0.db, &self.0.clock)
    }

    /// Puts an image of this machine's cache where the other replicas find it, if they share an object store: a host
    /// may ask any of them for it.
    ///
    /// # Errors
    /// The store's.
    pub async fn share(&self, image: &BaseImage) -> Result<(), ObjectError> {
        if self.0.objects.is_shared() {
            self.0.objects.import(&image.path, &image.digest).await?;
        }
        Ok(())
    }

    /// The platform's template of this name, with an image. None when none of that name ships.
    ///
    /// # Errors
    /// [`ShippedError::BeingBuilt`] until it is built; this call has begun that if nobody else had.
    pub async fn with_image(&self, name: &str) -> Result<Option<Template>, ShippedError> {
        let Some(recipes) = self.0.recipes.as_ref().filter(|recipes| recipes.code_interpreter.name() == name) else {
            return Ok(None);
        };
        // Built ahead on this machine, or by another Atoll here.
        if let Ok(Some(image)) = cached(&self.0.cache_dir, &recipes.code_interpreter) {
            return Ok(Some(self.register(&recipes.code_interpreter, Some(&image)).await?));
        }
        Err(self.begin(recipes))
    }

    /// Begins the build unless it is under way or failed a moment ago; what to tell meanwhile.
    fn begin(&self, recipes: &ShippedRecipes) -> ShippedError {
        let name = recipes.code_interpreter.name().to_owned();
        let mut state = self.state();
        match &*state {
            State::Building { step, since, wanted } => {
                wanted.cancel();
                return ShippedError::BeingBuilt { name, step: step.clone(), seconds: since.elapsed().as_secs() };
            }
            State::Failed { problem, at } if at.elapsed() < TRY_AGAIN => {
                return ShippedError::Failed { name, problem: problem.clone() };
            }
            State::Idle | State::Failed { .. } => {}
        }
        let step = "beginning".to_owned();
        *state = State::Building { step: step.clone(), since: Instant::now(), wanted: CancellationToken::new() };
        drop(state);
        let (shipped, recipes) = (self.clone(), recipes.clone());
        self.0.tasks.spawn(async move {
            let shutdown = shipped.0.shutdown.clone();
            // Cut off, a build leaves nothing that runs, and the next one begins afresh.
            tokio::select! {
                () = shipped.build(&recipes, Haste::Waited) => {}
                () = shutdown.cancelled() => {}
            }
        });
        ShippedError::BeingBuilt { name, step, seconds: 0 }
    }

    /// The build, if nobody is at it, with what says that somebody waits for it.
    fn claim(&self) -> Option<CancellationToken> {
        let mut state = self.state();
        if matches!(&*state, State::Building { .. }) {
            return None;
        }
        let wanted = CancellationToken::new();
        *state = State::Building { step: "beginning".to_owned(), since: Instant::now(), wanted: wanted.clone() };
        Some(wanted)
    }

    async fn build(&self, recipes: &ShippedRecipes, haste: Haste) {
        let name = recipes.code_interpreter.name();
        let say = |line: &str| {
            tracing::info!(template = name, step = line, "building a template that ships");
            if let State::Building { step, .. } = &mut *self.state() {
                line.clone_into(step);
            }
        };
        let building = tokio::time::timeout(DEADLINE, recipes.code_interpreter(&self.0.cache_dir, haste, &say)).await;
        let result = match building {
            Ok(Ok(image)) => {
                self.register(&recipes.code_interpreter, Some(&image)).await.map_err(|error| error.to_string())
            }
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("it took longer than {} minutes", DEADLINE.as_secs() / 60)),
        };
        *self.state() = match result {
            Ok(template) => {
                tracing::info!(template = name, digest = template.digest, "a template that ships is built");
                State::Idle
            }
            Err(problem) => {
                tracing::error!(template = name, problem, "a template that ships could not be built");
                State::Failed { problem, at: Instant::now() }
            }
        };
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
