//! The number that triggers raise with every change that can take a right away; see the migration that makes it.

use super::{Db, DbError, During, on};

pub async fn read(db: &Db) -> Result<i64, DbError> {
    let row: (i64,) =
        on!(read db, |c| sqlx::query_as("SELECT version FROM auth_version WHERE one = 1").fetch_one(c).await)
            .during("read the version of rights")?;
    Ok(row.0)
}
