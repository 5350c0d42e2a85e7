//! Tokens of sandboxes' identities, kept for half of their time.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex as PlainMutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::network::policy::Identity;

/// As many are kept before those that are over are cleared away.
const KEPT: usize = 1024;

/// A token, and how long it is good for.
#[derive(Clone)]
pub struct Token {
    pub text: String,
    pub ttl: Duration,
}

/// Who makes them.
#[async_trait]
pub trait Identities: fmt::Debug + Send + Sync {
    /// # Errors
    /// Why there is none.
    async fn token(&self, identity: &Identity) -> Result<Token, String>;
}

/// Nobody asks again before that is over: those who wait for an answer that fails would ask one after the other.
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// One that is about to end is given to nobody.
const LEAST: Duration = Duration::from_secs(30);

struct Kept {
    /// Or why there is none.
    text: Result<String, String>,
    /// Nobody is asked before.
    until: Instant,
    ends: Instant,
}

/// Of one identity. Who asks first fetches it, the others wait.
type Slot = Arc<Mutex<Option<Kept>>>;

pub(super) struct Tokens {
    source: Option<Arc<dyn Identities>>,
    slots: PlainMutex<HashMap<Identity, Slot>>,
}

impl Tokens {
    pub fn new(source: Option<Arc<dyn Identities>>) -> Self {
        Self { source, slots: PlainMutex::default() }
    }

    /// A token that is good for a while still.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn of(&self, identity: &Identity) -> Result<String, String> {
        let source = self.source.as_ref().ok_or("this host has nobody to ask for identities")?;
        let slot = self.slot(identity);
        let mut kept = slot.lock().await;
        let now = Instant::now();
        if let Some(kept) = kept.as_ref().filter(|kept| kept.until > now) {
            return kept.text.clone();
        }
        let fetched = source.token(identity).await;
        let now = Instant::now();
        let former = kept.take().filter(|former| former.text.is_ok() && former.ends > now + LEAST);
        let fresh = match (fetched, former) {
            (Ok(token), _) => Kept { text: Ok(token.text), until: now + token.ttl / 2, ends: now + token.ttl },
            // As long as the former one is good nobody need know.
            (Err(_), Some(former)) => Kept { until: now + ASK_AGAIN, ..former },
            (Err(why), None) => Kept { text: Err(why), until: now + ASK_AGAIN, ends: now },
        };
        kept.insert(fresh).text.clone()
    }

    fn slot(&self, identity: &Identity) -> Slot {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        if slots.len() >= KEPT && !slots.contains_key(identity) {
            let now = Instant::now();
            // One that is locked is being fetched.
            slots.retain(|_, slot| {
                slot.try_lock().map_or(true, |kept| kept.as_ref().is_some_and(|kept| kept.until > now))
            });
        }
        slots.entry(identity.clone()).or_default().clone()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use atoll_model::SandboxId;

    use super::*;

    /// Counts its tokens, and how often it had none.
    #[derive(Debug, Default)]
    struct Counting(AtomicU32, AtomicU32);

    #[async_trait]
    impl Identities for Counting {
        async fn token(&self, identity: &Identity) -> Result<Token, String> {
            if identity.name == "none" || self.1.load(Ordering::Relaxed) > 0 {
                self.1.fetch_add(1, Ordering::Relaxed);
                return Err("it has none".to_owned());
            }
            let count = self.0.fetch_add(1, Ordering::Relaxed);
            Ok(Token { text: format!("{}-{count}", identity.name), ttl: Duration::from_secs(60) })
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_is_kept_for_half_of_its_time_and_fetched_once() {
        let tokens = Tokens::new(Some(Arc::new(Counting::default())));
        let one = Identity { sandbox: SandboxId::new(), name: "one".to_owned() };
        let both = tokio::join!(tokens.of(&one), tokens.of(&one));
        assert_eq!(both, (Ok("one-0".to_owned()), Ok("one-0".to_owned())));
        tokio::time::advance(Duration::from_secs(29)).await;
        assert_eq!(tokens.of(&one).await.unwrap(), "one-0");
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(tokens.of(&one).await.unwrap(), "one-1");
        let other = Identity { sandbox: SandboxId::new(), ..one.clone() };
        assert_eq!(tokens.of(&other).await.unwrap(), "one-2", "another sandbox has another");
        assert!(Tokens::new(None).of(&one).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn where_nobody_answers_one_asks_for_all_and_a_token_that_is_good_still_is_used() {
        let source = Arc::new(Counting::default());
        let tokens = Tokens::new(Some(source.clone()));
        let one = Identity { sandbox: SandboxId::new(), name: "one".to_owned() };
        let none = Identity { name: "none".to_owned(), ..one.clone() };
        let asked = || source.1.load(Ordering::Relaxed);
        assert_eq!(tokens.of(&one).await.unwrap(), "one-0");
        let both = tokio::join!(tokens.of(&none), tokens.of(&none));
        assert_eq!((both.0.unwrap_err().as_str(), both.1.is_err(), asked()), ("it has none", true, 1));
        tokio::time::advance(Duration::from_secs(2)).await;
        assert!((tokens.of(&none).await.is_err(), asked()) == (true, 2));
        // It has 29 seconds left after another 29, which is too little.
        tokio::time::advance(Duration::from_secs(25)).await;
        assert_eq!(tokens.of(&one).await.unwrap(), "one-0");
        tokio::time::advance(Duration::from_millis(2900)).await;
        assert_eq!((tokens.of(&one).await.unwrap().as_str(), asked()), ("one-0", 2));
        tokio::time::advance(Duration::from_secs(2)).await;
        assert!(tokens.of(&one).await.is_err());
    }
}
