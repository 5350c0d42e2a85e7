//! A query whose shape depends on what was asked: lists with filters. The text is put together from pieces that are
//! part of the program (`&'static str`); what comes from outside is always bound.

use sqlx::postgres::PgRow;
use sqlx::sqlite::SqliteRow;
use sqlx::{AssertSqlSafe, FromRow};

use super::{Db, DbError, During, Millis, on};

#[derive(Debug, Clone)]
enum Value {
    Text(String),
    Integer(i64),
    Boolean(bool),
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Self::Integer(number)
    }
}

impl From<Millis> for Value {
    fn from(time: Millis) -> Self {
        Self::Integer(time.0)
    }
}

impl From<bool> for Value {
    fn from(yes: bool) -> Self {
        Self::Boolean(yes)
    }
}

/// A query in the making.
#[derive(Debug, Clone, Default)]
pub struct Sql {
    text: String,
    values: Vec<Value>,
}

#[allow(private_bounds, reason = "what can be bound is this file's business")]
impl Sql {
    #[must_use]
    pub fn new(text: &'static str) -> Self {
        Self { text: text.to_owned(), values: Vec::new() }
    }

    pub fn push(&mut self, text: &'static str) -> &mut Self {
        self.text.push_str(text);
        self
    }

    /// Adds text in which each `?` stands for the one value.
    pub fn with(&mut self, text: &'static str, value: impl Into<Value>) -> &mut Self {
        self.values.push(value.into());
        let place = format!("${}", self.values.len());
        self.text.push_str(&text.replace('?', &place));
        self
    }

    /// The same, if there is a value.
    pub fn with_some(&mut self, text: &'static str, value: Option<impl Into<Value>>) -> &mut Self {
        if let Some(value) = value {
            self.with(text, value);
        }
        self
    }

    /// How SQLite would find the rows, one step per line.
    #[cfg(test)]
    pub async fn plan(&self, db: &Db) -> Vec<String> {
        let explained = Self { text: format!("EXPLAIN QUERY PLAN {}", self.text), values: self.values.clone() };
        let rows: Vec<(i64, i64, i64, String)> = explained.fetch_all(db, "explain a query").await.unwrap();
        rows.into_iter().map(|row| row.3).collect()
    }

    pub async fn fetch_all<T>(&self, db: &Db, operation: &'static str) -> Result<Vec<T>, DbError>
    where
        T: for<'r> FromRow<'r, SqliteRow> + for<'r> FromRow<'r, PgRow> + Send + Unpin,
    {
        on!(read db, |c| {
            let mut query = sqlx::query_as::<_, T>(AssertSqlSafe(self.text.clone()));
            for value in &self.values {
                query = match value {
                    Value::Text(text) => query.bind(text.as_str()),
                    Value::Integer(number) => query.bind(*number),
                    Value::Boolean(yes) => query.bind(*yes),
                };
            }
            query.fetch_all(c).await
        })
        .during(operation)
    }

    /// The one number that the query answers.
    pub async fn count(&self, db: &Db, operation: &'static str) -> Result<u64, DbError> {
        let rows: Vec<(i64,)> = self.fetch_all(db, operation).await?;
        Ok(rows.first().and_then(|row| u64::try_from(row.0).ok()).unwrap_or(0))
    }
}

/// A pattern for `LIKE ... ESCAPE '\'` that finds `text` anywhere, whatever it consists of.
#[must_use]
pub fn containing(text: &str) -> String {
    let mut pattern = String::from("%");
    for c in text.to_lowercase().chars() {
        if matches!(c, '%' | '_' | '\\') {
            pattern.push('\\');
        }
        pattern.push(c);
    }
    pattern.push('%');
    pattern
}
