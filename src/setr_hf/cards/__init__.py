"""What a page on the Hub says of a model or a data set, from facts it is given."""
