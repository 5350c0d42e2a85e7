//! A typed client of `/v1`.
