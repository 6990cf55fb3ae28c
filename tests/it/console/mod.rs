//! The web console, over plain HTTP and in a real browser.

mod browser;
mod callbacks;
mod find;
mod inside;
mod looks;
mod page;
mod served;
mod steer;
mod strangers;
