//! The drill (`benches/drill`) is only worth what its judge is: it is shown here what it has to find.

#[path = "../../benches/drill/burst.rs"]
mod burst;
mod bursts;
#[path = "../../benches/drill/floor.rs"]
mod floor;
mod floors;
#[path = "../../benches/drill/judge.rs"]
mod judge;
mod judging;
