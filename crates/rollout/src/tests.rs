mod long;
mod mco;
mod pools;
mod rules;
mod world;
