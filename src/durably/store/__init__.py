"""The database: operations as values, the SQL that they name, and the engines that run them."""
