//! Names, attributes and watches.
pub mod watch {
    #[derive(Default)]
    pub struct Hub;
}
