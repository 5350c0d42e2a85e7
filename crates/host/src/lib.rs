//! The host agent.
pub mod images;
pub mod instance;
pub mod network;
pub mod slots;
pub mod storage;
