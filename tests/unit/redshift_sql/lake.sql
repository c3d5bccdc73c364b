-- create the external schema
CREATE EXTERNAL SCHEMA IF NOT EXISTS "shop__lake" FROM DATA CATALOG DATABASE 'esclusa_shop' REGION 'eu-west-1' IAM_ROLE 'arn:aws:iam::123456789012:role/esclusa-copy';

