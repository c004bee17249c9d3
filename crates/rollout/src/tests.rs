mod long;
mod rules;
mod world;
