-- Orders of 100 customers of two tastes, in place of those of a warehouse. Written as Parquet, which
-- batchrec reads.
{{ config(materialized='external', location=env_var('SHOP_ROOT', '..') ~ '/data/orders.parquet') }}

select
    customer as customer_id,
    (2 * (hash(customer, number) % 40) + customer % 2)::integer as sku,
    1700000000 + 3600 * number + customer as ordered_at
from range(1, 101) as customers (customer), range(25) as orders (number)
