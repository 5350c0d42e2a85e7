//! In which order events may be told. Ids are given out before their transactions end, so a smaller one may become
//! visible after a greater one. Whoever reads in order must not step over a missing id before it is sure that nobody
//! will fill it: that is so when every transaction that was under way when the hole was seen has ended.

use super::store::{Horizon, Row};

/// A reader's place in the outbox.
#[derive(Debug, Clone, Default)]
pub struct Place {
    last: i64,
    /// The first missing id, and the transactions that may still fill it: those before this one.
    hole: Option<(i64, i64)>,
}

impl Place {
    #[must_use]
    pub const fn after(last: i64) -> Self {
        Self { last, hole: None }
    }

    /// The id of the last event that was told.
    #[must_use]
    pub const fn last(&self) -> i64 {
        self.last
    }

    /// Whether something is held back.
    #[must_use]
    pub const fn waits(&self) -> bool {
        self.hole.is_some()
    }

    /// Steps over what is held back.
    pub fn give_up(&mut self, rows: &[Row]) {
        self.hole = None;
        self.last = rows.last().map_or(self.last, |row| row.id);
    }

    /// Takes rows that were read after [`Place::last`], in order, and answers how many of them may be told.
    pub fn take(&mut self, rows: &[Row], horizon: Horizon) -> usize {
        for (index, row) in rows.iter().enumerate() {
            let expected = self.last + 1;
            if row.id > expected {
                match self.hole {
                    Some((id, next)) if id == expected && horizon.oldest >= next => {}
                    Some((id, _)) if id == expected => return index,
                    // With one writer (`next` is 0) nothing can be under way.
                    _ if horizon.next == 0 || horizon.oldest >= horizon.next => {}
                    _ => {
                        self.hole = Some((expected, horizon.next));
                        return index;
                    }
                }
            }
            self.hole = None;
            self.last = row.id;
        }
        rows.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::db::Millis;

    fn rows(ids: &[i64]) -> Vec<Row> {
        let row = |id: &i64| Row { id: *id, at: Millis(0), team_id: None, kind: "a.b".into(), subject_id: "x".into() };
        ids.iter().map(row).collect()
    }

    fn horizon(oldest: i64, next: i64) -> Horizon {
        Horizon { oldest, next }
    }

    #[test]
    fn nothing_is_told_past_a_hole_that_may_still_be_filled() {
        let mut place = Place::after(7);
        assert_eq!(place.take(&rows(&[8, 10, 11]), horizon(100, 105)), 1);
        assert!(place.waits());
        assert_eq!(place.take(&rows(&[10, 11]), horizon(104, 106)), 0);
        assert_eq!(place.take(&rows(&[9, 10, 11]), horizon(106, 107)), 3, "it was filled");
        assert_eq!((place.last(), place.waits()), (11, false));
    }

    #[test]
    fn a_hole_of_a_transaction_that_was_rolled_back_is_stepped_over_when_all_others_have_ended() {
        let mut place = Place::after(7);
        assert_eq!(place.take(&rows(&[9]), horizon(100, 105)), 0);
        assert_eq!(place.take(&rows(&[9]), horizon(104, 120)), 0);
        assert_eq!(place.take(&rows(&[9]), horizon(105, 120)), 1);
        assert_eq!(place.last(), 9);
    }

    #[test]
    fn with_one_writer_or_nobody_under_way_there_is_nothing_to_wait_for() {
        assert_eq!(Place::after(0).take(&rows(&[5, 9]), horizon(0, 0)), 2);
        assert_eq!(Place::after(0).take(&rows(&[5, 9]), horizon(44, 44)), 2);
    }
}
