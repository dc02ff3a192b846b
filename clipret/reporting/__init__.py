"""Every table that people see. Builds and draws; decides nothing."""
