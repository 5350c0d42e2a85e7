//! Pages of lists: `limit` and an opaque `cursor`.

use atoll_model::api::{CountedPage, Page};
use serde::Deserialize;

use super::error::{ApiError, ApiResult};
use crate::db::Millis;

pub const DEFAULT_LIMIT: u32 = 100;
pub const MAX_LIMIT: u32 = 1000;
/// A cursor is one of ours: a time and an id. What [`Cursor::decode`] takes, as a pattern.
pub const CURSOR: &str = "^-?[0-9]{1,19}\\.[a-z0-9-]{0,64}$";
const MAX_DIGITS: usize = 19;
const MAX_ID: usize = 64;

#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub struct PageQuery {
    /// At most so many items. 1 to 1,000; 100 when absent.
    #[param(minimum = 1, maximum = 1000)]
    pub limit: Option<u32>,
    /// `next_cursor` of the page before.
    pub cursor: Option<String>,
}

/// A place in a list that is ordered by time, then id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor {
    pub at: Millis,
    pub id: String,
}

impl Cursor {
    #[must_use]
    pub fn encode(&self) -> String {
        format!("{}.{}", self.at.0, self.id)
    }

    /// Any text of the form is a place: [`CURSOR`] is all that is asked of it.
    pub fn decode(text: &str) -> ApiResult<Self> {
        let wrong = || ApiError::invalid("cursor", "not a cursor that this list gave out");
        let (at, id) = text.split_once('.').ok_or_else(wrong)?;
        let digits = at.strip_prefix('-').unwrap_or(at);
        let number = (1..=MAX_DIGITS).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit());
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if !number || id.len() > MAX_ID || !id.bytes().all(plain) {
            return Err(wrong());
        }
        // 19 digits can be more than there is time.
        let at = at.parse::<i128>().map_err(|_| wrong())?.clamp(i64::MIN.into(), i64::MAX.into());
        Ok(Self { at: Millis(i64::try_from(at).unwrap_or_default()), id: id.to_owned() })
    }
}

impl PageQuery {
    pub fn limit(&self) -> ApiResult<usize> {
        match self.limit {
            None => Ok(DEFAULT_LIMIT as usize),
            Some(limit) if (1..=MAX_LIMIT).contains(&limit) => Ok(limit as usize),
            Some(_) => Err(ApiError::invalid("limit", format!("must be between 1 and {MAX_LIMIT}"))),
        }
    }

    pub fn cursor(&self) -> ApiResult<Option<Cursor>> {
        self.cursor.as_deref().map(Cursor::decode).transpose()
    }
}

/// Makes a page of rows that were asked for with `limit + 1`: the one too many says that there are more.
pub fn page<R, T>(mut rows: Vec<R>, limit: usize, cursor: impl Fn(&R) -> Cursor, convert: impl Fn(R) -> T) -> Page<T> {
    let more = rows.len() > limit;
    rows.truncate(limit);
    let next_cursor = if more { rows.last().map(|row| cursor(row).encode()) } else { None };
    Page { items: rows.into_iter().map(convert).collect(), next_cursor }
}

/// The same with how many there are in all.
pub fn counted<R, T>(
    (rows, total): (Vec<R>, u64),
    limit: usize,
    cursor: impl Fn(&R) -> Cursor,
    convert: impl Fn(R) -> T,
) -> CountedPage<T> {
    let Page { items, next_cursor } = page(rows, limit, cursor, convert);
    CountedPage { items, next_cursor, total }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_cursor_comes_back_as_it_was(at in any::<i64>(), id in "[a-z0-9-]{0,40}") {
            let cursor = Cursor { at: Millis(at), id };
            prop_assert_eq!(Cursor::decode(&cursor.encode()).unwrap(), cursor);
        }

        #[test]
        fn any_other_text_is_refused_and_never_panics(text in ".{0,300}") {
            if let Ok(cursor) = Cursor::decode(&text) {
                prop_assert_eq!(Cursor::decode(&cursor.encode()).unwrap(), cursor);
            }
        }
    }

    #[test]
    fn the_last_page_has_no_cursor() {
        let cursor = |row: &i64| Cursor { at: Millis(*row), id: String::new() };
        assert!(page(vec![1, 2, 3], 2, cursor, |row| row).next_cursor.is_some());
        let last = page(vec![1, 2], 2, cursor, |row| row);
        assert_eq!((last.items, last.next_cursor), (vec![1, 2], None));
    }
}
