"""Reading tar and zip archives of data sets without trusting them."""
